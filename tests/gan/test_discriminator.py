"""The discriminator: recorded scores and gradients, order of operations, bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.gan import Discriminator
from evonorm_jax.gan.discriminator import DiscriminatorBlock
from tests.gan.discriminator_case import make_case, params_of, run_ours, score
from tests.gan.record_torch_cases import FILE

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return file["discriminator/scores"], json.loads(str(file["discriminator/norms"]))


def test_scores_and_gradients_of_torch(recorded):
    """One step of the power method included; PyTorch computed in float64."""
    scores, norms = recorded
    ours = run_ours(make_case())
    np.testing.assert_allclose(ours.pop("scores"), scores, rtol=1e-5, atol=1e-6)
    assert ours.keys() == norms.keys()
    total = np.linalg.norm(list(norms.values()))
    for name, norm in norms.items():
        assert ours[name] == pytest.approx(norm, rel=1e-4, abs=1e-6 * total), name


def test_bfloat16_is_for_the_convolutions_alone(recorded):
    case = make_case()
    run = jax.jit(lambda params, images: score(case, params, images, jnp.bfloat16))
    scores = run(params_of(case), case["images"])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, recorded[0], atol=0.02 * np.abs(recorded[0]).max())


def test_a_block_keeps_its_input_on_the_skip():
    """With every kernel 0 the block is its skip: x itself, pooled, beside nothing but zeros."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    block = DiscriminatorBlock(12, downsample=True)
    params = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(1), x))
    y = block.apply(params, x)
    pooled = x.reshape(2, 2, 2, 2, 2, 8).mean((2, 4))
    np.testing.assert_allclose(y[..., :8], pooled, atol=1e-6)
    np.testing.assert_array_equal(y[..., 8:], 0)


def test_the_map_is_summed_and_the_class_enters_by_its_embedding():
    network = Discriminator(
        widths=(1, 1), num_classes=3, image_size=8, num_downsampled=1, num_filters=4
    )
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    labels = jnp.array([0, 2])
    params = network.init(jax.random.key(1), images, labels)["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    params["stem_conv"]["bias"] = jnp.array([1.0, 2.0, -3.0, 0.0])  # h = 16 (1, 2, 0, 0)
    params["linear"] = {"kernel": jnp.ones((4, 1)), "bias": jnp.array([5.0])}
    params["class_embedding"]["embedding"] = jnp.array([[1.0, 0, 0, 0], [0] * 4, [0, 1.0, 9, 9]])
    scores = network.apply({"params": params}, images, labels)
    np.testing.assert_allclose(scores, [16 * 3 + 5 + 16, 16 * 3 + 5 + 32])


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "message"),
    [
        ((2, 8, 8, 3), "uint8", jnp.zeros(2, int), "images have dtype uint8"),
        ((2, 8, 6, 3), "float32", jnp.zeros(2, int), "images are 8x6 pixels.* for 8x8"),
        ((2, 16, 16, 3), "float32", jnp.zeros(2, int), "images are 16x16 pixels"),
        ((2, 8, 8, 3), "float32", jnp.zeros(3, int), r"labels are int32\[3\]: .* \[2\]"),
        ((2, 8, 8, 3), "float32", jnp.zeros(2), r"labels are float32\[2\]"),
    ],
)
def test_bad_input(shape, dtype, labels, message):
    network = Discriminator(
        widths=(1, 1), num_classes=3, image_size=8, num_downsampled=1, num_filters=4
    )
    with pytest.raises(UserError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape, dtype), labels)
