"""Layers in the limits where they equal another, by hand, and where numbers run out."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import EvoNormB0, EvoNormB2, EvoNormS0, norm_act, norm_act_names
from evonorm_jax.layers import FilterResponseNorm
from tests.layers.deviations import make_case, run_layer

SHAPE = (8, 3, 2, 8)  # as in test_batch_statistics.py: compiled once for both


def outputs(name, case, **fields):
    """Output and gradients."""
    return run_layer(norm_act(name, **fields)(), case)[:3]


def assert_same(a, b, rtol=1e-5, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_b0_by_hand():
    """One channel, two images of one row: -1, 1 and 1, 7, epsilon 0.

    The batch has mean 2 and variance (9 + 1 + 1 + 25) / 4 = 9; the maps have deviations 1 and 3.
    The denominators are max(3, x + 1) and max(3, x + 3): 3, 3 and 4, 10.
    """
    x = jnp.array([[[[-1.0], [1.0]]], [[[1.0], [7.0]]]])
    y, _ = EvoNormB0(epsilon=0.0).init_with_output(jax.random.key(0), x, use_running_average=False)
    np.testing.assert_allclose(y.ravel(), [-1 / 3, 1 / 3, 1 / 4, 7 / 10], rtol=1e-6)


def test_b1_and_b2_by_hand():
    """The same numbers; root mean squares 1 and 5: max(3, (x+1) r) is 3, 3, 10, 40 in B1.

    In B2 max(3, r - x) is 3, 3, 4, 3.
    """
    x = jnp.array([[[[-1.0], [1.0]]], [[[1.0], [7.0]]]])
    for name, expected in (
        ("evonorm_b1", [-1 / 3, 1 / 3, 1 / 10, 7 / 40]),
        ("evonorm_b2", [-1 / 3, 1 / 3, 1 / 4, 7 / 3]),
    ):
        layer = norm_act(name, epsilon=0.0)()
        y, _ = layer.init_with_output(jax.random.key(0), x, use_running_average=False)
        np.testing.assert_allclose(y.ravel(), expected, rtol=1e-6)


def test_s0_and_s2_by_hand():
    """Four channels in two groups, one pixel: deviations 2 and 1, root mean squares sqrt(5), 1."""
    x = jnp.array([-1.0, 3.0, -1.0, 1.0]).reshape(1, 1, 1, 4)
    silu = np.array([-1, 3, -1, 1]) / (1 + np.exp([1, -3, 1, -1]))
    for name, divisor in (
        ("evonorm_s0", [2, 2, 1, 1]),
        ("evonorm_s1", [2, 2, 1, 1]),
        ("evonorm_s2", [5**0.5, 5**0.5, 1, 1]),
    ):
        layer = norm_act(name, epsilon=0.0, num_groups=2)()
        y, _ = layer.init_with_output(jax.random.key(0), x)
        np.testing.assert_allclose(y.ravel(), silu / divisor, rtol=1e-6)


def test_frn_threshold_by_hand():
    x = jnp.array([-3.0, 3.0]).reshape(1, 1, 2, 1)
    layer = FilterResponseNorm(epsilon=0.0, threshold_init=nn.initializers.constant(-0.5))
    y, _ = layer.init_with_output(jax.random.key(0), x)
    assert y.ravel().tolist() == [-0.5, 1.0]


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_bn_relu6_stops_at_six_and_its_gradient_with_it(implementation):
    case = make_case("bn_relu6", shape=SHAPE)
    params = case.params | {"scale": 10 * case.params["scale"]}
    case = dataclasses.replace(case, params=params)
    linear = norm_act("bn_relu6", nonlinearity=False)()

    def clipped(params, x):
        variables = {"params": params, "batch_stats": case.running}
        z, _ = linear.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        return jnp.clip(z, 0, 6)

    y, vjp = jax.vjp(clipped, case.params, case.x)
    by_params, by_x = vjp(case.cotangent)
    assert 20 < np.sum(y == 6) < y.size / 2
    ours = outputs("bn_relu6", case, implementation=implementation)
    assert_same(ours, (y, by_x, by_params), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nonlinearity", [True, False])
def test_bn_relu_is_flax_batch_norm(nonlinearity):
    case = make_case("bn_relu", shape=SHAPE)

    class Flax(nn.Module):
        @nn.compact
        def __call__(self, x, use_running_average):
            norm = nn.BatchNorm(momentum=0.9, epsilon=1e-5, name="norm")
            z = norm(x, use_running_average=use_running_average)
            return nn.relu(z) if nonlinearity else z

    for train in (True, False):
        ours = run_layer(norm_act("bn_relu", nonlinearity=nonlinearity)(), case, train)
        y, vjp, updates = jax.vjp(
            lambda params, x, train=train: Flax().apply(
                {"params": {"norm": params}, "batch_stats": {"norm": case.running}},
                x,
                not train,
                mutable=["batch_stats"],
            ),
            case.params,
            case.x,
            has_aux=True,
        )
        by_params, by_x = vjp(case.cotangent)
        assert_same(ours, (y, by_x, by_params, updates["batch_stats"]["norm"]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "flax_layer"),
    [
        ("gn_relu", nn.GroupNorm(num_groups=4, epsilon=1e-5)),
        ("ln_relu", nn.LayerNorm(epsilon=1e-5, reduction_axes=(1, 2, 3))),
        ("in_relu", nn.InstanceNorm(epsilon=1e-5)),
    ],
)
def test_group_layer_and_instance_norm_are_those_of_flax(name, flax_layer):
    case = make_case(name, shape=SHAPE)
    fields = {"num_groups": 4} if name == "gn_relu" else {}
    y, vjp = jax.vjp(
        lambda params, x: nn.relu(flax_layer.apply({"params": params}, x)), case.params, case.x
    )
    by_params, by_x = vjp(case.cotangent)
    assert_same(outputs(name, case, **fields), (y, by_x, by_params), atol=1e-5)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_swish_with_v_one_is_silu(norm):
    case = make_case(f"{norm}_swish", shape=SHAPE)
    case.params["v"] = jnp.ones(8)
    y, by_x, by_params = outputs(f"{norm}_swish", case)
    del case.params["v"], by_params["v"]
    assert_same((y, by_x, by_params), outputs(f"{norm}_silu", case))


def test_s0_with_v_one_is_s1():
    case = make_case("evonorm_s0", shape=SHAPE)
    case.params["v"] = jnp.ones(8)
    y, by_x, by_params = outputs("evonorm_s0", case, num_groups=4)
    del case.params["v"], by_params["v"]
    assert_same((y, by_x, by_params), outputs("evonorm_s1", case, num_groups=4))


def test_s1_of_centred_groups_is_s2():
    case = make_case("evonorm_s1", shape=SHAPE)
    grouped = case.x.reshape(8, 3, 2, 4, 2)
    x = (grouped - grouped.mean(axis=(1, 2, 4), keepdims=True)).reshape(SHAPE)
    variables = {"params": case.params}
    s1, s2 = (norm_act(name, num_groups=4)() for name in ("evonorm_s1", "evonorm_s2"))
    np.testing.assert_allclose(s1.apply(variables, x), s2.apply(variables, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("groups", "limit"), [(8, "in_relu"), (1, "ln_relu")])
def test_group_norm_between_instance_and_layer_norm(groups, limit):
    case = make_case("gn_relu", shape=SHAPE)
    assert_same(outputs("gn_relu", case, num_groups=groups), outputs(limit, case))


def test_group_size_is_the_other_way_to_say_it():
    case = make_case("evonorm_s0", shape=SHAPE)
    assert_same(
        outputs("evonorm_s0", case, group_size=2), outputs("evonorm_s0", case, num_groups=4)
    )


def test_batch_instance_norm_at_the_ends_of_its_gate():
    case = make_case("batch_instance_norm_relu", shape=SHAPE)
    for gate, limit in ((1.0, "bn_relu"), (3.0, "bn_relu"), (0.0, "in_relu"), (-2.0, "in_relu")):
        case.params["gate"] = jnp.full(8, gate)
        y, by_x, by_params = outputs("batch_instance_norm_relu", case)
        # The gradient reaches the gate outside its interval as well, so that it can return.
        assert (by_params.pop("gate") != 0).all()
        rest = make_case("batch_instance_norm_relu", shape=SHAPE)
        del rest.params["gate"]
        assert_same((y, by_x, by_params), outputs(limit, rest))


@pytest.mark.parametrize(("index", "limit"), [(0, "in_relu"), (1, "ln_relu"), (2, "bn_relu")])
def test_switchable_norm_at_the_corners_of_its_mixture(index, limit):
    case = make_case("switchable_norm_relu", shape=SHAPE)
    for mixture in ("mean_mixture", "var_mixture"):
        case.params[mixture] = jnp.full(3, -100.0).at[index].set(0.0)
    y, by_x, by_params = outputs("switchable_norm_relu", case)
    for mixture in ("mean_mixture", "var_mixture"):
        del case.params[mixture], by_params[mixture]
    assert_same((y, by_x, by_params), outputs(limit, case))


@pytest.mark.parametrize("factor", [0.5, 4.0, 1000.0])
@pytest.mark.parametrize("layer", [EvoNormB0(epsilon=1e-12), EvoNormB2(epsilon=1e-12)])
def test_rescaling_the_input_changes_nothing(layer, factor):
    x = make_case("evonorm_b2", shape=SHAPE).x
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, _ = layer.apply(variables, x, False, mutable=["batch_stats"])
    rescaled, _ = layer.apply(variables, factor * x, False, mutable=["batch_stats"])
    np.testing.assert_allclose(rescaled, y, rtol=1e-5)


def test_s0_is_not_invariant():
    """Its sigmoid sees the input itself; a large one makes it ReLU over the deviation."""
    x = make_case("evonorm_s0", shape=SHAPE).x
    layer = EvoNormS0(num_groups=4, epsilon=0.0)
    variables = layer.init(jax.random.key(0), x)
    y, large = layer.apply(variables, x), layer.apply(variables, 1000 * x)
    assert np.abs(y - large).max() > 0.05
    std = x.reshape(8, 3, 2, 4, 2).std(axis=(1, 2, 4)).repeat(2, axis=1)[:, None, None]
    np.testing.assert_allclose(large, nn.relu(x) / std, atol=1e-3)


HARD_INPUTS = {
    "zero": np.zeros(SHAPE),
    "constant": np.full(SHAPE, 3.0),
    "1x1 maps": np.random.default_rng(0).normal(size=(8, 1, 1, 8)),
    "one image": np.random.default_rng(1).normal(size=(1, 3, 2, 8)),
    "one value": np.full((1, 1, 1, 8), -2.0),
    "large": np.random.default_rng(2).normal(size=SHAPE) * 3e3,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", norm_act_names())
def test_hard_inputs_give_finite_values_and_gradients(name, dtype):
    layer = norm_act(name)()
    labels = HARD_INPUTS if dtype == "float32" else ("constant", "large")
    for label in labels:
        x = jnp.asarray(HARD_INPUTS[label], dtype)
        variables = layer.init(jax.random.key(0), x, use_running_average=False)

        def apply(params, x, variables=variables):
            variables = variables | {"params": params}
            return layer.apply(variables, x, False, mutable=["batch_stats"])

        y, vjp, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        gradients = vjp(jnp.ones_like(y))
        for leaf in jax.tree.leaves((y, gradients, updates)):
            assert jnp.isfinite(leaf).all(), label


def test_a_constant_map_has_deviation_root_epsilon():
    x = jnp.full((2, 3, 3, 4), 2.0)
    y, _ = EvoNormS0(epsilon=0.01).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, 2 / (1 + np.exp(-2.0)) / 0.1, rtol=1e-6)
