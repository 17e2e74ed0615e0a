"""The pyramid against plain NumPy, and what stands on its levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.fpn import FeaturePyramid
from evonorm_jax.norm_act import norm_act
from tests.models.plain_networks import plain_conv


def backbone_maps(levels=(2, 3, 4), size=32, dtype=np.float64):
    rng = np.random.default_rng(0)
    return {
        level: rng.standard_normal((2, size >> level, size >> level, 3 + level)).astype(dtype)
        for level in levels
    }


def random_variables(module, maps):
    rng = np.random.default_rng(1)
    variables = jax.eval_shape(module.init, jax.random.key(0), maps)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape) / 4, variables)


def plain_pyramid(maps, params, finest, coarsest):
    def conv(x, level, kind="conv", strides=1):
        params_ = params[f"level{level}_{kind}"]
        return plain_conv(x, params_, strides) + params_["bias"]

    merged = {}
    for level in sorted(maps, reverse=True):
        merged[level] = conv(maps[level], level, "lateral_conv")
        if level + 1 in merged:
            merged[level] = merged[level] + np.kron(merged[level + 1], np.ones((1, 2, 2, 1)))
    result = {level: conv(x, level) for level, x in merged.items()}
    for level in range(max(maps) + 1, coarsest + 1):
        x = result[level - 1]
        result[level] = conv(x if level == max(maps) + 1 else np.maximum(x, 0), level, strides=2)
    affine = {level: params[f"level{level}_norm"] for level in range(finest, coarsest + 1)}
    return {
        level: result[level] * values["scale"] + values["bias"] for level, values in affine.items()
    }


def test_plain_numpy():
    maps = backbone_maps()
    module = FeaturePyramid(norm_act("evonorm_s0"), min_level=2, max_level=6, num_filters=4)
    single = {level: leaf.astype(np.float32) for level, leaf in maps.items()}
    params = random_variables(module, single)["params"]
    assert set(params["level5_norm"]) == {"scale", "bias"}  # affine: no activation follows
    expected = plain_pyramid(maps, params, 2, 6)
    result = jax.jit(module.apply)({"params": jax.tree.map(jnp.float32, params)}, single)
    assert list(result) == [2, 3, 4, 5, 6]
    for level, leaf in expected.items():
        assert result[level].shape == (2, *2 * (max(1, 32 >> level),), 4)
        np.testing.assert_allclose(result[level], leaf, rtol=1e-4, atol=1e-4)


def test_levels_of_the_backbone_that_nobody_wants_take_no_part():
    module = FeaturePyramid(norm_act("bn_relu"), min_level=3, max_level=5, num_filters=4)
    variables = jax.eval_shape(module.init, jax.random.key(0), backbone_maps(dtype=np.float32))
    laterals = {name for name in variables["params"] if "lateral" in name}
    assert laterals == {"level3_lateral_conv", "level4_lateral_conv"}
    assert set(variables["batch_stats"]) == {f"level{level}_norm" for level in (3, 4, 5)}


@pytest.mark.parametrize("layer", ["bn_relu", "gn_relu"])
def test_the_norm_of_other_layers_has_no_activation(layer):
    module = FeaturePyramid(norm_act(layer), min_level=2, max_level=4, num_filters=4)
    maps = backbone_maps(dtype=np.float32)
    variables = jax.tree.map(jnp.float32, random_variables(module, maps))
    apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    result, _ = jax.jit(apply)(variables, maps)
    assert all((np.asarray(leaf) < 0).any() for leaf in result.values())
