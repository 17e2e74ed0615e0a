"""Order of operations in blocks and networks, against plain functions of their parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.models import create_model
from evonorm_jax.models.convolution import conv2d
from evonorm_jax.models.resnet import BasicBlock, BottleneckBlock
from evonorm_jax.models.resnet_v1 import BasicBlockV1, BottleneckBlockV1
from evonorm_jax.norm_act import norm_act
from tests.models.plain_networks import (
    plain_basic,
    plain_basic_v1,
    plain_bn_relu,
    plain_bottleneck,
    plain_bottleneck_v1,
    plain_cifar_resnet,
    plain_evonorm_s0,
    plain_resnet,
    plain_resnet_d,
    plain_resnet_v1,
    plain_resnet_v1_d,
)

D_FIELDS = {"stage_sizes": (1, 1), "stem": "imagenet_deep", "avg_down": True}


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
        ("resnet50", "evonorm_s0", plain_resnet_d, D_FIELDS),
        ("resnet50_v1", "bn_relu", plain_resnet_v1_d, D_FIELDS),
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
