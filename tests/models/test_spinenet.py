"""SpineNet: its maps, its connections, and images that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.models.convolution import conv2d
from evonorm_jax.models.resnet_v1 import BasicBlockV1, BottleneckBlockV1
from evonorm_jax.models.spinenet import (
    BLOCKS,
    Resample,
    SpineNet,
    SpineNet49,
    SpineNet49S,
    SpineNet96,
    SpineNet143,
    SpineNet190,
)
from evonorm_jax.norm_act import norm_act
from tests.models.plain_networks import plain_batch_norm, plain_bn_relu, plain_conv


def maps_of(model, size):
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


@pytest.mark.parametrize("size", [(128, 128), (256, 384)])
@pytest.mark.parametrize(("network", "channels"), [(SpineNet49S, 128), (SpineNet49, 256)])
def test_maps(network, channels, size):
    maps, variables = maps_of(network(norm_act("evonorm_s0"), residual_norm="affine"), size)
    assert {level: leaf.shape for level, leaf in maps.items()} == {
        level: (2, size[0] >> level, size[1] >> level, channels) for level in range(3, 8)
    }
    assert set(variables) == {"params"}


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 192)])
def test_images_that_do_not_fit(size):
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]} pixels: .* multiples of 128"):
        maps_of(SpineNet49(norm_act("bn_relu")), size)


# The authors' zoo gives detectors alone; these are theirs without the heads.
@pytest.mark.parametrize(
    ("network", "blocks_to_a_group", "alpha"),
    [(SpineNet49, 1, 0.5), (SpineNet96, 2, 0.5), (SpineNet143, 3, 1.0)],
)
def test_parameters_by_hand(network, blocks_to_a_group, alpha):
    filters = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}

    def norm(channels):
        return 2 * channels

    def block(c_in, f, bottleneck):
        c = 4 * f if bottleneck else f
        shortcut = c_in * c + norm(c) if c_in != c else 0
        if bottleneck:
            return shortcut + c_in * f + 9 * f * f + f * c + 2 * norm(f) + norm(c)
        return shortcut + 9 * c_in * f + 9 * f * f + 2 * norm(f)

    def group(c_in, f, bottleneck):
        c = 4 * f if bottleneck else f
        return block(c_in, f, bottleneck) + (blocks_to_a_group - 1) * block(c, f, bottleneck)

    total = 7 * 7 * 3 * 64 + norm(64) + group(64, 64, True) + group(256, 64, True)
    groups = [(2, 64, 256)] * 2
    for spec in BLOCKS:
        f = filters[spec.level]
        c = 4 * f if spec.bottleneck else f
        for parent in spec.parents:
            level, parent_filters, parent_channels = groups[parent]
            inner = int(alpha * parent_filters)
            total += parent_channels * inner + norm(inner) + inner * c + norm(c)
            if level < spec.level:
                total += 9 * inner * inner + norm(inner)
        total += group(c, f, spec.bottleneck)
        groups.append((spec.level, f, c))
    for spec, (_, _, channels) in zip(BLOCKS, groups[2:], strict=True):
        total += (channels * 256 + norm(256)) * spec.is_output
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    variables = jax.eval_shape(network(norm_act("bn_relu")).init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == total


def test_a_group_that_no_other_takes_is_added_to_the_output_of_its_shape():
    """Every group gives its number here and every resampled parent 0, so sums can be read."""
    inputs = {}

    def intercept(next_call, args, kwargs, context):
        module, x = context.module, args[0]
        if isinstance(module, Resample):
            n, height, width, _ = x.shape
            height, width = (int(side * 2.0**-module.levels_down) for side in (height, width))
            return jnp.zeros((n, height, width, module.features))
        if isinstance(module, (BasicBlockV1, BottleneckBlockV1)):
            inputs[module.name] = float(x.max())
            expansion = 4 if isinstance(module, BottleneckBlockV1) else 1
            return jnp.full((*x.shape[:3], expansion * module.num_filters), len(inputs))
        return next_call(*args, **kwargs)

    model = SpineNet49(norm_act("bn_relu"), filter_scale=1 / 32, endpoint_filters=1)
    with nn.intercept_methods(intercept):
        model.init(jax.random.key(0), jnp.zeros((1, 128, 128, 3)))
    # Group 10 (level 5, a bottleneck) comes after the two of the stem; group 13 is that output.
    added = {name: value for name, value in inputs.items() if name.startswith("group") and value}
    assert added == {"group13_block1": 12}
    assert len(inputs) == 2 + len(BLOCKS)


@pytest.mark.parametrize("levels_down", [-2, 0, 1, 2, 3])
def test_resample_by_plain_numpy(levels_down, random_variables):
    x = np.random.default_rng(0).standard_normal((2, 8, 16, 3)).astype(np.float32)
    layer = norm_act("bn_relu", use_running_average=False)
    module = Resample(5, inner=4, levels_down=levels_down, conv=conv2d, norm_act=layer)
    variables = random_variables(module, x)
    y, _ = jax.jit(lambda v: module.apply(v, x, mutable=["batch_stats"]))(variables)

    p = jax.tree.map(np.float64, variables["params"])
    expected = plain_bn_relu(plain_conv(x.astype(np.float64), p["reduce_conv"]), p["reduce_norm"])
    if levels_down > 0:
        expected = plain_bn_relu(plain_conv(expected, p["down_conv"], 2), p["down_norm"])
    if levels_down > 1:
        expected = plain_max_pool(expected, 3 if levels_down == 2 else 5, 2 ** (levels_down - 1))
    if levels_down < 0:
        expected = np.kron(expected, np.ones((1, 2**-levels_down, 2**-levels_down, 1)))
    expected = plain_batch_norm(plain_conv(expected, p["expand_conv"]), p["expand_norm"])
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def plain_max_pool(x, window, strides):
    margin = (window - 1) // 2
    padded = np.pad(
        x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=-np.inf
    )
    rows = range(0, x.shape[1], strides)
    columns = range(0, x.shape[2], strides)
    return np.stack(
        [
            np.stack(
                [padded[:, i : i + window, j : j + window].max(axis=(1, 2)) for j in columns], 1
            )
            for i in rows
        ],
        1,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_repeats": 0}, "num_repeats=0: expected an integer"),
        ({"filter_scale": 0}, "filter_scale=0: expected a number above 0"),
        ({"endpoint_filters": 1.5}, "endpoint_filters=1.5: expected an integer"),
        ({"residual_norm": "batch"}, "residual_norm='batch': expected one of norm, affine"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError, match=message):
        SpineNet(norm_act("bn_relu"), **fields)


def test_fused_layers_only_where_they_are_asked_for():
    with pytest.raises(UserError, match="fuses normalisation and activation"):
        SpineNet190(norm_act("evonorm_s0"))
    assert SpineNet190(norm_act("evonorm_s0"), residual_norm="affine").num_repeats == 4
