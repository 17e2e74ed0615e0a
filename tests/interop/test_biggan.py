"""Published generators of BigGAN-deep: recorded images, names, statistics by truncation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.interop import load_biggan_weights
from evonorm_jax.interop.biggan import from_biggan_state_dict
from tests.interop.biggan_case import CONFIG, PIXELS, TRUNCATION, make_inputs, make_state_dict
from tests.interop.record_biggan_case import FILE

safetensors = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return json.loads(str(file["shapes"])), file["images"]


@pytest.fixture(scope="module")
def state_dict(recorded):
    return make_state_dict(recorded[0])


def test_images_are_those_of_the_published_graph(recorded, state_dict, tmp_path):
    path = tmp_path / "biggan.safetensors"
    safetensors.save_file(state_dict, path)
    gan, variables = load_biggan_weights(path, truncation=TRUNCATION)
    z, labels = make_inputs()
    images = jax.jit(gan.generator.apply)(variables, z, labels)
    assert images.shape == (2, 128, 128, 3)
    # The recorded ones are float64, their standard deviation is 0.33.
    np.testing.assert_allclose(images[PIXELS], recorded[1], atol=2e-6)


def test_the_network_is_that_of_the_file(state_dict):
    gan, variables = from_biggan_state_dict(state_dict)
    assert gan.image_shape == (128, 128, 3)
    assert (gan.num_classes, gan.z_dim) == (CONFIG["num_classes"], CONFIG["z_dim"])
    fresh = jax.eval_shape(gan.init, jax.random.key(0))[0]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, fresh)


def test_statistics_of_a_truncation(state_dict):
    means = state_dict["generator.bn.running_means"]
    for truncation, expected in [
        (1.0, means[50]),
        (0.58, means[29]),  # 0.58 * 50 is 28.999999999999996
        (0.59, (means[29] + means[30]) / 2),
        (0.585, 0.75 * means[29] + 0.25 * means[30]),
    ]:
        _, variables = from_biggan_state_dict(state_dict, truncation=truncation)
        mean = variables["batch_stats"]["head_norm"]["mean"]
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("truncation", [0.0, -0.5, 1.01])
def test_truncation_out_of_range(state_dict, truncation):
    with pytest.raises(UserError, match=rf"truncation={truncation}: expected a number above 0"):
        from_biggan_state_dict(state_dict, truncation=truncation)


def test_other_tensors_are_named(state_dict):
    conv = "generator.layers.3.conv_1.weight_orig"
    changed = {name: tensor for name, tensor in state_dict.items() if name != "generator.bn.bias"}
    changed |= {"fc.weight": np.ones(1), conv: changed[conv][..., :1]}
    with pytest.raises(UserError) as raised:
        from_biggan_state_dict(changed)
    message = str(raised.value)
    assert "1 missing: generator.bn.bias" in message
    assert "1 not of this network: fc.weight" in message
    assert f"1 of another shape: {conv} 32x32x3x1, not 32x32x3x3" in message


def test_another_network(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.save_file({"fc.weight": np.ones((2, 2), np.float32)}, path)
    with pytest.raises(
        UserError, match=r"other.safetensors: not a generator of pytorch-pretrained"
    ):
        load_biggan_weights(path)
