"""Order of operations in blocks and networks, against plain functions of their parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.layers import norm_act
from evonorm_jax.models import create_model
from evonorm_jax.models.convolution import conv2d
from evonorm_jax.models.resnet import BasicBlock, BottleneckBlock
from evonorm_jax.models.resnet_v1 import BasicBlockV1, BottleneckBlockV1

EPSILON = 1e-5

# The plain functions run on JAX arrays for their gradients and on NumPy's float64 for the rest.


def plain_conv(x, params, strides=1):
    """Zero-padded convolution as a sum over shifted copies of the image."""
    xp = x.__array_namespace__()
    kernel = params["kernel"]
    size = kernel.shape[0]
    margin = (size - 1) // 2
    height, width = x.shape[1:3]
    padded = xp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifted = [
        padded[:, row : row + height : strides, column : column + width : strides]
        for row in range(size)
        for column in range(size)
    ]
    return xp.einsum("knhwc,kcf->nhwf", xp.stack(shifted), kernel.reshape(-1, *kernel.shape[2:]))


def plain_evonorm_s0(x, params):
    xp = x.__array_namespace__()
    n, h, w, c = x.shape
    groups = max(g for g in range(1, 33) if c % g == 0)
    grouped = x.reshape(n, h * w, groups, c // groups)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    std = xp.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + EPSILON)
    y = x / (1 + xp.exp(-params["v"] * x))
    y = (y.reshape(grouped.shape) / std).reshape(x.shape)
    return y * params["scale"] + params["bias"]


def plain_batch_norm(x, params):
    xp = x.__array_namespace__()
    centred = x - x.mean(axis=(0, 1, 2))
    y = centred / xp.sqrt((centred**2).mean(axis=(0, 1, 2)) + EPSILON)
    return y * params["scale"] + params["bias"]


def plain_bn_relu(x, params):
    xp = x.__array_namespace__()
    return xp.maximum(plain_batch_norm(x, params), 0)


def plain_basic(x, p, layer, strides):
    y = layer(x, p["norm1"])
    shortcut = plain_conv(y, p["shortcut_conv"], strides) if "shortcut_conv" in p else x
    y = plain_conv(y, p["conv1"], strides)
    return plain_conv(layer(y, p["norm2"]), p["conv2"]) + shortcut


def plain_bottleneck(x, p, layer, strides):
    y = layer(x, p["norm1"])
    shortcut = plain_conv(y, p["shortcut_conv"], strides) if "shortcut_conv" in p else x
    y = plain_conv(y, p["conv1"])
    y = plain_conv(layer(y, p["norm2"]), p["conv2"], strides)
    return plain_conv(layer(y, p["norm3"]), p["conv3"]) + shortcut


def plain_basic_v1(x, p, layer, strides):
    xp = x.__array_namespace__()
    y = layer(plain_conv(x, p["conv1"], strides), p["norm1"])
    y = plain_batch_norm(plain_conv(y, p["conv2"]), p["norm2"])
    return xp.maximum(y + plain_shortcut_v1(x, p, strides), 0)


def plain_bottleneck_v1(x, p, layer, strides):
    xp = x.__array_namespace__()
    y = layer(plain_conv(x, p["conv1"]), p["norm1"])
    y = layer(plain_conv(y, p["conv2"], strides), p["norm2"])
    y = plain_batch_norm(plain_conv(y, p["conv3"]), p["norm3"])
    return xp.maximum(y + plain_shortcut_v1(x, p, strides), 0)


def plain_shortcut_v1(x, p, strides):
    if "shortcut_conv" not in p:
        return x
    return plain_batch_norm(plain_conv(x, p["shortcut_conv"], strides), p["shortcut_norm"])


def plain_stem(images, params, layer=None):
    """7x7/2 convolution, the layer if there is one, and 3x3/2 max-pool."""
    xp = images.__array_namespace__()
    x = plain_conv(images, params["stem_conv"], 2)
    x = x if layer is None else layer(x, params["stem_norm"])
    height, width = x.shape[1:3]
    padded = xp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-xp.inf)
    windows = [
        padded[:, row : row + height : 2, column : column + width : 2]
        for row in range(3)
        for column in range(3)
    ]
    return functools.reduce(xp.maximum, windows)


def plain_head(x, params):
    return x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def plain_resnet(images, p):
    x = plain_stem(images, p)
    x = plain_bottleneck(x, p["stage1_block1"], plain_evonorm_s0, 1)
    x = plain_bottleneck(x, p["stage2_block1"], plain_evonorm_s0, 2)
    return plain_head(plain_evonorm_s0(x, p["head_norm"]), p)


def plain_resnet_v1(images, p):
    x = plain_stem(images, p, plain_bn_relu)
    x = plain_bottleneck_v1(x, p["stage1_block1"], plain_bn_relu, 1)
    x = plain_bottleneck_v1(x, p["stage2_block1"], plain_bn_relu, 2)
    return plain_head(x, p)


def plain_cifar_resnet(images, p):
    x = plain_conv(images, p["stem_conv"])
    for stage, strides in ((1, 1), (2, 2), (3, 2)):
        x = plain_basic(x, p[f"stage{stage}_block1"], plain_evonorm_s0, strides)
    return plain_head(plain_evonorm_s0(x, p["head_norm"]), p)


def make_block(block_class, layer_name, **fields):
    return block_class(
        conv=functools.partial(conv2d, dtype=jnp.float32),
        norm_act=norm_act(layer_name, use_running_average=False),
        **fields,
    )


@pytest.mark.parametrize(
    ("block_class", "plain_block", "layer_name", "plain_layer", "fields"),
    [
        (BasicBlock, plain_basic, "evonorm_s0", plain_evonorm_s0, {"strides": 2}),
        (BasicBlock, plain_basic, "bn_relu", plain_bn_relu, {}),
        (BottleneckBlock, plain_bottleneck, "evonorm_s0", plain_evonorm_s0, {"strides": 2}),
        (BottleneckBlock, plain_bottleneck, "bn_relu", plain_bn_relu, {}),
        (BasicBlockV1, plain_basic_v1, "bn_relu", plain_bn_relu, {"strides": 2}),
        (BottleneckBlockV1, plain_bottleneck_v1, "bn_relu", plain_bn_relu, {"strides": 2}),
        (BottleneckBlockV1, plain_bottleneck_v1, "bn_relu", plain_bn_relu, {}),
    ],
)
def test_block_and_its_gradient(
    block_class, plain_block, layer_name, plain_layer, fields, random_variables
):
    strides = fields.get("strides", 1)
    num_filters, channels = (2, 6) if strides == 2 else (2, 8)
    if block_class is BasicBlock and strides == 1:
        num_filters = channels
    block = make_block(
        block_class, layer_name, num_filters=num_filters, use_projection=strides == 2, **fields
    )
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 5, 4, channels)), jnp.float32)
    params = random_variables(block, x)["params"]

    def actual(params, x):
        y, _ = block.apply({"params": params}, x, mutable=["batch_stats"])
        return y

    def expected(params, x):
        return plain_block(x, params, plain_layer, strides)

    def value_and_gradient(function, params, x):
        y, pullback = jax.vjp(function, params, x)
        return y, pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    compare = jax.jit(
        lambda p, x: (value_and_gradient(actual, p, x), value_and_gradient(expected, p, x))
    )
    (y, gradient), (plain_y, plain_gradient) = compare(params, x)
    np.testing.assert_allclose(y, plain_y, rtol=1e-4, atol=1e-5)
    for leaf, plain_leaf in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient), strict=True
    ):
        scale = float(jnp.abs(plain_leaf).max())
        np.testing.assert_allclose(leaf, plain_leaf, rtol=1e-3, atol=1e-4 * max(scale, 1.0))


@pytest.mark.parametrize("block_class", [BasicBlockV1, BottleneckBlockV1])
@pytest.mark.parametrize("layer_name", ["bn_relu", "gn_relu"])
def test_v1_block_starts_as_the_activation_of_its_shortcut(block_class, layer_name):
    # Limit case: the last norm starts with scale 0, so the branch adds nothing.
    channels = 8
    num_filters = channels if block_class is BasicBlockV1 else channels // 4
    block = make_block(block_class, layer_name, num_filters=num_filters)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, channels))
    y, variables = jax.jit(block.init_with_output)(jax.random.key(1), x)
    np.testing.assert_array_equal(y, jnp.maximum(x, 0))
    last = "norm2" if block_class is BasicBlockV1 else "norm3"
    for name, params in variables["params"].items():
        if "norm" in name:
            np.testing.assert_array_equal(params["scale"], 0 if name == last else 1)


def test_v1_block_ends_with_the_activation_of_its_layer():
    block = make_block(BasicBlockV1, "gn_silu", num_filters=4)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    y, _ = jax.jit(block.init_with_output)(jax.random.key(1), x)
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer_name", "plain_network", "fields"),
    [
        ("resnet50", "evonorm_s0", plain_resnet, {"stage_sizes": (1, 1)}),
        ("resnet50_v1", "bn_relu", plain_resnet_v1, {"stage_sizes": (1, 1)}),
        ("cifar_resnet20", "evonorm_s0", plain_cifar_resnet, {"depth": 8}),
    ],
)
def test_whole_network(name, layer_name, plain_network, fields, random_variables):
    model = create_model(name, 5, norm_act=layer_name, num_filters=4, **fields)
    images = jnp.asarray(np.random.default_rng(2).standard_normal((3, 18, 15, 3)), jnp.float32)
    params = random_variables(model, images)["params"]

    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, _ = train({"params": params}, images)
    assert logits.shape == (3, 5)
    in_float64 = functools.partial(np.asarray, dtype=np.float64)
    expected = plain_network(in_float64(images), jax.tree.map(in_float64, params))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
