"""Multiply-adds by hand, by a walk over the traced program, and as published."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from evonorm_jax.models import count_multiply_adds, count_parameters, create_model
from evonorm_jax.models.convolution import TransposedConv, conv2d


class TinyNetwork(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = conv2d(4, 3, strides=2, name="full")(images)
        x = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False, name="depthwise")(x)
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


def test_tiny_network_by_hand():
    # 5x5x3 image: the strided convolution gives 3x3x4, the grouped one 3x3x8.
    full = 3 * 3 * (3 * 3 * 3 * 4)
    grouped = 3 * 3 * (3 * 3 * 1 * 8)
    dense = 8 * 10
    assert count_multiply_adds(TinyNetwork(), image_size=5) == full + grouped + dense
    assert count_parameters(TinyNetwork()) == 108 + 72 + 90
    assert count_multiply_adds(TinyNetwork(), image_size=5, channels=1) == (
        full // 3 + grouped + dense
    )


class Upsampler(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return TransposedConv(5, name="upsample")(images)


def test_transposed_convolution_by_hand():
    # Every one of the 4 x 4 pixels gives each of 4 output pixels 3 x 5 products.
    assert count_multiply_adds(Upsampler(), image_size=4) == 4 * 4 * 4 * 3 * 5
    assert count_parameters(Upsampler()) == 4 * 3 * 5 + 5


def multiply_adds_of_program(jaxpr):
    """Independent count: the convolutions and matrix products of the traced program."""
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            kernel_shape = equation.invars[1].aval.shape
            out_channel_axis = equation.params["dimension_numbers"].rhs_spec[0]
            total += out.size * math.prod(kernel_shape) // kernel_shape[out_channel_axis]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lhs_shape = equation.invars[0].aval.shape
            total += out.size * math.prod(lhs_shape[axis] for axis in contracted)
        elif equation.primitive.name == "cond":  # one operation in a form for each platform
            branches = equation.params["branches"]
            total += max(multiply_adds_of_program(branch.jaxpr) for branch in branches)
        else:
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += multiply_adds_of_program(inner)
    return total


@pytest.mark.parametrize(
    ("name", "norm_act", "image_size"),
    [
        ("resnet50_v1", "bn_relu", 97),
        ("cifar_resnet20", "bn_relu", 31),
        ("resnet18", "bn_relu", 64),
        ("mobilenet_v2", "bn_relu", 97),
        ("efficientnet_b0", "bn_silu", 64),
    ],
)
def test_same_as_the_traced_program(name, norm_act, image_size):
    model = create_model(name, num_classes=10, norm_act=norm_act)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    program = jax.make_jaxpr(model.apply)(variables, images)
    assert count_multiply_adds(model, image_size) == multiply_adds_of_program(program.jaxpr)


@pytest.mark.parametrize(
    ("name", "image_size", "billions"),
    # Published with torchvision's weights; 40.8 million is the usual figure for ResNet-20.
    [
        ("resnet50_v1", 224, 4.09),
        ("resnet18_v1", 224, 1.81),
        ("resnet152_v1", 224, 11.51),
        ("cifar_resnet20", 32, 0.041),
        ("mobilenet_v2", 224, 0.301),
        ("mnasnet_b1", 224, 0.314),
    ],
)
def test_published_figures(name, image_size, billions):
    model = create_model(name, num_classes=1000, norm_act="bn_relu")
    assert round(count_multiply_adds(model, image_size) / 1e9, 3) == pytest.approx(
        billions, abs=0.005 if billions > 1 else 0.0005
    )
