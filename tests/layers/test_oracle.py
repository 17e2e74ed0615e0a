"""Every layer against the float64 oracle: values and gradients, training and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import norm_act_names
from tests.layers import oracle
from tests.layers.deviations import case_with_oracle, deviation, make_case, make_layer, run_layer

pytestmark = pytest.mark.usefixtures("quick_compilation")

GROUPS = 3
MODES = [(name, True) for name in norm_act_names()] + [(name, False) for name in oracle.TRACKED]

# In one program: one operation after the other, they would be compiled one by one.
run_compiled = jax.jit(run_layer, static_argnums=(0, 2))


def check(value, reference, dtype, tolerance):
    """One rounding at the end: to the 8 significant bits of bfloat16, which costs 2^-8."""
    assert value.dtype == dtype
    if jnp.dtype(dtype) == jnp.bfloat16:
        scale = np.abs(reference).max()
        np.testing.assert_allclose(
            np.asarray(value).astype(np.float64), reference, rtol=2**-8, atol=tolerance * scale
        )
    else:
        assert deviation(value, reference)[1] < tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "train"), MODES)
def test_values_and_gradients(name, train, dtype):
    case, (y, by_x, by_params) = case_with_oracle(name, dtype, groups=GROUPS, train=train)
    got_y, got_x, got_params, _ = run_compiled(make_layer(name, GROUPS), case, train)
    check(got_y, y, dtype, 1e-6)
    check(got_x, by_x, dtype, 2e-6)
    assert got_params.keys() == by_params.keys()
    # float32 for either input, as the parameters never see the rounding; but where x is bfloat16, a
    # kernel for CPUs takes a gate that is off by up to 4e-5, and v's terms cancel in part.
    tolerance = 5e-6 if dtype == "float32" else 2e-4
    for key, reference in by_params.items():
        check(got_params[key], reference, "float32", tolerance)


@pytest.mark.parametrize("name", norm_act_names())
def test_float64_is_computed_in_float64(name):
    with jax.enable_x64(True):
        case, (y, by_x, by_params) = case_with_oracle(name, "float64", groups=GROUPS)
        got_y, got_x, got_params, updates = run_compiled(make_layer(name, GROUPS), case, True)
        assert got_y.dtype == got_x.dtype == jnp.float64
        assert deviation(got_y, y)[1] < 1e-14
        assert deviation(got_x, by_x)[1] < 1e-8
        for key, reference in by_params.items():
            assert deviation(got_params[key], reference)[1] < 1e-8
        assert all(value.dtype == jnp.float32 for value in updates.values())


@pytest.mark.parametrize("name", norm_act_names())
def test_large_offset(name):
    """Mean 1000, standard deviation 1.5: what `E[x^2] - E[x]^2` in float32 does not survive."""
    case = make_case(name, offset=1000.0)
    y = oracle.apply(name, case.float64().x, case.float64().params, groups=GROUPS)
    got, *_ = run_compiled(make_layer(name, GROUPS), case, True)
    # Float32 knows 1000 to 6e-5: the means, and what is left after they are taken away, too.
    assert deviation(got, y)[1] < 1e-4


@pytest.mark.parametrize("name", ["evonorm_b0", "evonorm_s0", "bn_swish", "rs_rej"])
def test_jit_changes_nothing(name):
    case, layer = make_case(name), make_layer(name, GROUPS)
    compiled = run_compiled(layer, case, True)
    for value, reference in zip(
        jax.tree.leaves(compiled), jax.tree.leaves(run_layer(layer, case)), strict=True
    ):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", norm_act_names())
def test_without_activation(name, dtype):
    case = make_case(name, dtype)
    layer = make_layer(name, GROUPS, nonlinearity=False)
    norm = oracle.WITHOUT_ACTIVATION.get(name)
    exact = case.float64()
    if norm is None:
        reference = oracle.affine(exact.x, exact.params)
        # No statistics, so neither a mode nor a mutable collection is asked for.
        y = layer.apply({"params": case.params}, case.x)
        variables = jax.eval_shape(layer.init, jax.random.key(0), case.x)
        assert set(variables) == {"params"}
    else:
        reference = norm(exact.x, exact.params, GROUPS, 1e-5, None)
        y, *_ = run_compiled(layer, case, True)
        init = functools.partial(layer.init, use_running_average=False)
        variables = jax.eval_shape(init, jax.random.key(0), case.x)
    check(y, reference, dtype, 1e-6)
    assert not {"v", "threshold"} & set(variables["params"])


@pytest.mark.parametrize("name", norm_act_names())
def test_parameters_and_state(name):
    """Names, shapes, dtypes and initial values of all variables: nothing more, nothing less."""
    x = jnp.ones((1, 2, 2, 6), jnp.bfloat16)
    init = functools.partial(make_layer(name, GROUPS).init, use_running_average=False)
    variables = jax.jit(init)(jax.random.key(0), x)
    initial = {"scale": 1, "bias": 0, "v": 1, "threshold": 0, "gate": 1}
    initial |= {"mean_mixture": 1, "var_mixture": 1, "mean": 0, "var": 1, "mean_square": 1}
    extra = oracle.EXTRA_PARAMS.get(name, {})
    shapes = {"scale": (6,), "bias": (6,)} | {key: (size or 6,) for key, size in extra.items()}
    assert {key: value.shape for key, value in variables["params"].items()} == shapes
    state = variables.get("batch_stats", {})
    assert set(state) == set(oracle.TRACKED.get(name, {}))
    assert all(value.shape == (6,) for value in state.values())
    for key, value in (variables["params"] | state).items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, initial[key])


def test_the_oracle_knows_every_layer():
    assert tuple(oracle.LAYERS) == norm_act_names()
