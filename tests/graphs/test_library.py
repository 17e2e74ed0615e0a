"""Known layers written as graphs equal their layers: values, gradients and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import norm_act
from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.library import LIBRARY, to_graph_params
from evonorm_jax.search.evolution.space import SearchSpace
from tests.layers import oracle
from tests.layers.deviations import (
    case_with_oracle,
    deviation,
    make_case,
    make_layer,
    run_layer,
)

GROUPS = 3
MODES = [(name, True) for name in LIBRARY]
MODES += [(name, False) for name in LIBRARY if name in oracle.TRACKED]


def make_graph_layer(name, groups=GROUPS, **fields):
    if name.startswith(("gn_", "evonorm_s")):
        fields["num_groups"] = groups
    return norm_act(f"graph:{name}", **fields)()


def statistic_of(key):
    """`mean_square_n5` -> `mean_square`: all known layers track statistics of x alone."""
    return key.rpartition("_n")[0]


def run_graph(name, case, train=True, **fields):
    """As `run_layer`, with the gradients by the parameters of the layer, not by the graph's."""
    layer = make_graph_layer(name, **fields)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), case.x, False))
    state = {key: case.running[statistic_of(key)] for key in shapes.get("batch_stats", {})}

    def apply(params, x):
        variables = {"params": to_graph_params(name, params), "batch_stats": state}
        assert variables["params"].keys() == shapes["params"].keys()
        y, updates = layer.apply(variables, x, not train, mutable=["batch_stats"])
        return y, updates.get("batch_stats", {})

    y, vjp, updates = jax.vjp(apply, case.params, case.x, has_aux=True)
    by_params, by_x = vjp(case.cotangent)
    return y, by_x, by_params, {statistic_of(key): value for key, value in updates.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "train"), MODES)
def test_equals_the_formula_of_the_paper(name, train, dtype):
    """The float64 oracle, at the tolerances that the layers themselves keep."""
    case, (y, by_x, by_params) = case_with_oracle(name, dtype, groups=GROUPS, train=train)
    got_y, got_x, got_params, _ = run_graph(name, case, train)
    assert got_y.dtype == got_x.dtype == jnp.dtype(dtype)
    for got, reference, tolerance in ((got_y, y, 1e-6), (got_x, by_x, 2e-6)):
        rounding = 2**-8 if dtype == "bfloat16" else 0
        np.testing.assert_allclose(
            np.asarray(got, np.float64),
            reference,
            rtol=rounding,
            atol=tolerance * np.abs(reference).max(),
        )
    assert got_params.keys() == by_params.keys()
    for key, reference in by_params.items():
        assert deviation(got_params[key], reference)[1] < 5e-6


@pytest.mark.parametrize(("name", "train"), MODES)
def test_equals_its_layer(name, train):
    case = make_case(name)
    y, by_x, by_params, updates = run_layer(make_layer(name, GROUPS), case, train)
    got_y, got_x, got_params, got_updates = run_graph(name, case, train)
    assert deviation(got_y, np.asarray(y))[1] < 1e-6
    assert deviation(got_x, np.asarray(by_x))[1] < 2e-6
    for key, reference in by_params.items():
        assert deviation(got_params[key], np.asarray(reference))[1] < 5e-6
    assert got_updates.keys() == updates.keys() == oracle.TRACKED.get(name, {}).keys()
    for key, value in updates.items():
        np.testing.assert_allclose(got_updates[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "train"), MODES)
def test_float64(name, train):
    """Without the epsilon of the division, which the layers do not have either."""
    with jax.enable_x64(True):
        case = make_case(name, "float64")
        y, by_x, by_params, _ = run_layer(make_layer(name, GROUPS), case, train)
        got_y, got_x, got_params, _ = run_graph(name, case, train, division_epsilon=0.0)
        assert got_y.dtype == got_x.dtype == jnp.float64
        assert deviation(got_y, np.asarray(y))[1] < 1e-14
        assert deviation(got_x, np.asarray(by_x))[1] < 1e-13
        for key, reference in by_params.items():
            assert deviation(got_params[key], np.asarray(reference))[1] < 1e-13


@pytest.mark.parametrize("name", LIBRARY)
def test_starts_as_its_layer(name):
    """The initial parameters are each other's image, and so are the initial statistics."""
    x = jnp.ones((2, 2, 2, 6))
    layer = make_layer(name, GROUPS).init(jax.random.key(0), x, use_running_average=False)
    graph = make_graph_layer(name).init(jax.random.key(0), x, use_running_average=False)
    expected = to_graph_params(name, layer["params"])
    assert graph["params"].keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(graph["params"][key], value)
        assert graph["params"][key].dtype == jnp.float32
    for key, value in graph.get("batch_stats", {}).items():
        np.testing.assert_array_equal(value, layer["batch_stats"][statistic_of(key)])


@pytest.mark.parametrize("name", LIBRARY)
def test_fits_the_space_of_its_series(name):
    graph = LIBRARY[name]
    assert len(graph.nodes) <= SearchSpace().num_nodes
    assert canonical(graph).effective == graph.effective, "no unused node"
    SearchSpace().check_layer(graph)
    if name in oracle.TRACKED:
        with pytest.raises(UserError, match=r"_bwh is a moment over the batch"):
            SearchSpace(batch_moments=False).check_layer(graph)
    else:
        SearchSpace(batch_moments=False).check_layer(graph)
