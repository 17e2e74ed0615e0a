"""The Inception network of FID: sizes, preprocessing, and what torch-fidelity computes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.gan.features import tensors_hash
from evonorm_jax.gan.inception import Block, InceptionV3, preprocess
from evonorm_jax.interop.inception import (
    from_inception_state_dict,
    inception_tensors,
    load_inception_weights,
)
from tests.gan import inception_case
from tests.gan.record_torch_cases import FILE

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def state_dict():
    with np.load(FILE) as file:
        shapes = json.loads(str(file["inception/shapes"]))
    return inception_case.make_state_dict(shapes)


def test_sizes():
    sizes = {"params": 0, "batch_stats": 0}
    for path, shape in inception_tensors().values():
        sizes[path[0]] += int(np.prod(shape))
    assert sizes == {"params": 23_850_960, "batch_stats": 34_432}
    assert len(inception_tensors()) == 566 - 94  # torch counts the steps of 94 normalisations


def test_features_and_logits_of_torch_fidelity(state_dict):
    variables = from_inception_state_dict(state_dict)

    @jax.jit
    def run(variables, images):
        return InceptionV3().apply(variables, preprocess(images, inception_case.SIZE))

    output = run(variables, inception_case.make_images())
    with np.load(FILE) as file:
        features, logits = file["inception/features"], file["inception/logits"]
    assert features.std() > 0.1  # or the comparison says nothing
    np.testing.assert_allclose(output.features, features, atol=1e-4 * np.abs(features).max())
    np.testing.assert_allclose(output.logits, logits, atol=1e-4 * np.abs(logits).max())


def test_resizing_has_no_half_pixel():
    """A ramp of 5 pixels to 7: the pixel i is the ramp at 5 i / 7, the last ones its end."""
    ramp = jnp.broadcast_to(jnp.arange(5, dtype=jnp.uint8)[:, None, None], (1, 5, 5, 3))
    rows = preprocess(ramp, 7)[0, :, 2, 1] * 128 + 128
    np.testing.assert_allclose(rows, [0, 5 / 7, 10 / 7, 15 / 7, 20 / 7, 25 / 7, 4], atol=1e-4)
    columns = preprocess(ramp.transpose(0, 2, 1, 3), 7)[0, 2, :, 1] * 128 + 128
    np.testing.assert_array_equal(columns, rows)


def test_an_image_of_the_right_size_is_only_scaled():
    images = jnp.arange(4 * 4 * 3, dtype=jnp.uint8).reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(preprocess(images, 4), (np.float32(images) - 128) / 128)


def test_average_pools_leave_the_padding_out():
    """A constant map stays constant up to its border, through the branch that pools it."""
    block = Block([[("branch_pool", 1, 1, 1)]])
    x = jnp.full((1, 4, 4, 2), 3.0)
    variables = block.init(jax.random.key(0), x)
    kernel = variables["params"]["branch_pool"]["conv"]["kernel"]
    variables["params"]["branch_pool"]["conv"]["kernel"] = jnp.ones_like(kernel)
    y = block.apply(variables, x)
    np.testing.assert_allclose(y, 6 / np.sqrt(1.001), rtol=1e-6)
    padded = nn.avg_pool(x, (3, 3), padding="SAME")
    assert float(padded.min()) < 3  # what the default of Flax would give


@pytest.mark.parametrize(
    "images", [np.ones((1, 8, 8, 1), np.uint8), np.ones((1, 8, 8, 3)), np.ones((8, 8, 3), np.uint8)]
)
def test_images_that_do_not_fit(images):
    with pytest.raises(UserError, match=r"expected uint8 \[N, H, W, 3\]"):
        preprocess(images)


# Weights.


def test_weights_of_a_file(state_dict, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "inception.safetensors"
    safetensors.save_file(state_dict, path)
    variables = load_inception_weights(path)
    fresh = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.ones((1, 75, 75, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)
    assert tensors_hash(variables) == tensors_hash(from_inception_state_dict(state_dict))
    variables["params"]["fc"]["bias"] = variables["params"]["fc"]["bias"] + 1
    assert tensors_hash(variables) != tensors_hash(from_inception_state_dict(state_dict))


def test_weights_of_torchvision(state_dict):
    with pytest.raises(UserError, match=r"those of torchvision's Inception-v3.*not FID"):
        from_inception_state_dict(state_dict | {"AuxLogits.fc.weight": np.ones(1)})


def test_other_tensors_are_named(state_dict):
    changed = {name: tensor for name, tensor in state_dict.items() if name != "fc.bias"}
    changed["fc.weight"] = np.ones((1000, 2048), np.float32)
    with pytest.raises(UserError) as raised:
        from_inception_state_dict(changed)
    assert "1 missing: fc.bias" in str(raised.value)
    assert "1 of another shape: fc.weight 1000x2048, not 1008x2048" in str(raised.value)
