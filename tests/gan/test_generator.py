"""The generator: order of operations, classes, dtypes, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from evonorm_jax import norm_act
from evonorm_jax.errors import UserError
from evonorm_jax.gan.generator import Generator, GeneratorBlock
from evonorm_jax.gan.layers import NonLocal, upsample
from evonorm_jax.gan.orthogonal import orthogonal
from evonorm_jax.layers import ConditionalNormAct

pytestmark = pytest.mark.usefixtures("quick_compilation")

Z = jax.random.normal(jax.random.key(0), (3, 4))
LABELS = jnp.array([0, 1, 2])


def make_network(layer="evonorm_s0", **fields):
    return Generator(
        widths=(2, 1),
        num_classes=3,
        norm_act=norm_act(layer),
        num_filters=8,
        z_dim=4,
        embedding_dim=5,
        **fields,
    )


@pytest.fixture(scope="module")
def params():
    return make_network().lazy_init(jax.random.key(1), Z, LABELS)["params"]


def apply(network, params, z, labels):
    return jax.jit(network.apply)({"params": params}, z, labels)


def test_upsampling_repeats_pixels():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], expected)


@pytest.mark.parametrize("double", [False, True])
def test_a_block_keeps_the_first_channels_on_the_skip(double):
    """With the last convolution 0 the block is its skip."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 16))
    condition = jnp.ones((2, 3))
    layer = functools.partial(ConditionalNormAct, norm_act("gn_relu"))
    block = GeneratorBlock(8, norm_act=layer, upsample=double)
    variables = block.lazy_init(jax.random.key(1), x, condition)
    variables["params"]["conv4"] = jax.tree.map(jnp.zeros_like, variables["params"]["conv4"])
    y = jax.jit(block.apply)(variables, x, condition)
    skip = x[..., :8]
    np.testing.assert_array_equal(y, upsample(skip) if double else skip)


def test_non_local_block_by_hand():
    """Each pixel gets the pooled g, weighted by the softmax of theta . phi, times gamma."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
    block = NonLocal()
    params = block.lazy_init(jax.random.key(1), x)["params"]
    np.testing.assert_array_equal(block.apply({"params": params}, x), x)  # gamma starts at 0
    params["gamma"] = jnp.array(0.5)
    y = np.asarray(block.apply({"params": params}, x), np.float64)

    w = {name: np.float64(params[name]["kernel"][0, 0]) for name in params if name != "gamma"}
    image = np.asarray(x, np.float64)[0]
    pooled = {
        name: (image @ w[name]).reshape(2, 2, 1, 2, -1).max((1, 3)).reshape(2, -1)
        for name in ("phi", "g")
    }
    logits = image.reshape(8, 8) @ w["theta"] @ pooled["phi"].T
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    attended = weights @ pooled["g"] @ w["output"]
    np.testing.assert_allclose(y[0], image + 0.5 * attended.reshape(4, 2, 8), atol=1e-5)


def test_images_are_float32_and_in_range(params):
    images = apply(make_network(), params, Z, LABELS)
    assert images.shape == (3, 8, 8, 3)
    assert images.dtype == jnp.float32
    assert np.abs(images).max() < 1
    rounded = apply(make_network(dtype=jnp.bfloat16), params, Z, LABELS)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, images, atol=0.05)


def test_every_example_is_its_own(params):
    """Noise and class of an example change its image and no other, without batch statistics."""
    network = make_network()
    images = apply(network, params, Z, LABELS)
    order = jnp.array([2, 0, 1])
    permuted = apply(network, params, Z[order], LABELS[order])
    np.testing.assert_allclose(permuted, images[order], atol=1e-6)
    for z, labels in ((Z.at[0].add(1), LABELS), (Z, LABELS.at[0].set(2))):
        changed = apply(network, params, z, labels)
        np.testing.assert_allclose(changed[1:], images[1:], atol=1e-6)
        assert np.abs(changed[0] - images[0]).max() > 0.01


@pytest.mark.slow  # 5 s to export and to compile for two numbers of images
def test_one_program_for_every_number_of_images(params):
    network, (n,) = make_network(), export.symbolic_shape("n")
    inputs = (jax.ShapeDtypeStruct((n, 4), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32))
    for_platforms = export.export(jax.jit(network.apply), platforms=("cpu", "cuda", "tpu"))
    program = for_platforms({"params": params}, *inputs)
    images = apply(network, params, Z, LABELS)
    for count in (1, 3):
        found = program.call({"params": params}, Z[:count], LABELS[:count])
        np.testing.assert_allclose(found, images[:count], atol=1e-5)


def test_attention_is_traced_for_every_number_of_images():
    network, (n,) = make_network(attention_size=8), export.symbolic_shape("n")
    variables = jax.eval_shape(network.init, jax.random.key(1), Z, LABELS)
    inputs = (jax.ShapeDtypeStruct((n, 4), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32))
    assert jax.eval_shape(network.apply, variables, *inputs).shape == (n, 8, 8, 3)


def test_weights_of_classes(params):
    """One-hot weights are the class; half and half is the middle of two embeddings."""
    network = make_network()
    images = apply(network, params, Z, LABELS)
    np.testing.assert_allclose(apply(network, params, Z, jnp.eye(3)), images, atol=1e-6)
    halves = apply(network, params, Z, jnp.array([[0.5, 0.5, 0]] * 3))
    embedding = params["class_embedding"]["embedding"]
    middle = {"embedding": embedding.at[0].set((embedding[0] + embedding[1]) / 2)}
    expected = apply(network, {**params, "class_embedding": middle}, Z, 0 * LABELS)
    np.testing.assert_allclose(halves, expected, atol=1e-6)


def test_spare_output_channels_are_dropped():
    network = make_network(head_features=8)
    params = network.lazy_init(jax.random.key(1), Z, LABELS)["params"]
    assert params["head_conv"]["kernel"].shape == (3, 3, 8, 8)
    images = apply(network, params, Z, LABELS)
    head = {name: value[..., :3] for name, value in params["head_conv"].items()}
    narrow = apply(make_network(), {**params, "head_conv": head}, Z, LABELS)
    np.testing.assert_allclose(images, narrow, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 2, 8), (6, 4), (4, 6), (5, 5)])
def test_orthogonal_kernels(shape):
    kernel = np.asarray(orthogonal(jax.random.key(0), shape), np.float64).reshape(-1, shape[-1])
    gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
    np.testing.assert_allclose(gram, np.eye(min(kernel.shape)), atol=1e-6)
    assert not np.allclose(
        kernel, np.asarray(orthogonal(jax.random.key(1), shape)).reshape(kernel.shape)
    )


def test_orthogonal_kernels_prefer_no_direction():
    """Entries of a random orthogonal 4x4 matrix have mean 0 and variance 1/4."""
    keys = jax.random.split(jax.random.key(0), 400)
    entries = np.stack([np.asarray(orthogonal(key, (4, 4))) for key in keys])
    error = 1 / np.sqrt(400)
    np.testing.assert_allclose(entries.mean(0), 0, atol=4 * 0.5 * error)
    np.testing.assert_allclose(np.square(entries).mean(0), 0.25, atol=4 * 0.25 * error)


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        (jnp.ones((3, 5)), LABELS, r"z is float32\[3, 5\]: expected .* \[N, 4\]"),
        (jnp.ones((3, 4), int), LABELS, r"z is int32\[3, 4\]"),
        (Z, LABELS[:2], r"labels are int32\[2\]: expected integers \[3\]"),
        (Z, jnp.ones((3, 2)), r"labels are float32\[3, 2\]: .* \[3, 3\]"),
        (Z, jnp.ones(3), r"labels are float32\[3\]"),
    ],
)
def test_bad_input(z, labels, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(make_network().init, jax.random.key(0), z, labels)
