"""Layers node by node against the layers themselves, values, gradients and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.graphs import LIBRARY, Graph, canonical
from evonorm_jax.graphs.layer import graph_layer
from evonorm_jax.graphs.nodewise import NodewiseLayer
from evonorm_jax.search.engine.filters import reject
from evonorm_jax.search.evolution.space import SearchSpace, random_graph

SHAPE = (4, 3, 2, 8)
EXTRA = {
    "the input alone": "n4 = max(x, x)",
    "a statistic alone": "n4 = std_whc(x)",
    "constant": "n4 = exp(0); n5 = tanh(x); n6 = mul(n4, n5)",
    "not through x": "n4 = mean_bwh(x); n5 = mul(0, n4); n6 = exp(v1); n7 = add(n5, n6)",
    "moments of moments": "n4 = std_wh(x); n5 = rms_bwh(n4); n6 = mean_whcg(n5); n7 = div(x, n6)",
    "vectors together": "n4 = add(v0, v1); n5 = std_whc(n4); n6 = mul(x, n5); n7 = add(n6, v1)",
}


def surviving_graphs(number):
    rng, found = np.random.default_rng(0), []
    while len(found) < number:
        graph = random_graph(rng, SearchSpace())
        if reject(graph) is None:
            found.append(canonical(graph))
    return found


GRAPHS = {
    **{name: canonical(graph) for name, graph in LIBRARY.items()},
    **{name: canonical(Graph.from_text(text)) for name, text in EXTRA.items()},
    **{f"random {i}": graph for i, graph in enumerate(surviving_graphs(6))},
}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(1)
    x, cotangent = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    params = {k: 1 + 0.3 * rng.normal(size=SHAPE[-1]) for k in ("scale", "bias", "v0", "v1")}
    return {k: jnp.float32(v) for k, v in params.items()}, jnp.array(x + 0.5), jnp.array(cotangent)


def the_layer(graph):
    layer = graph_layer(graph)
    return layer(num_groups=4) if "group" in layer.func.__name__.lower() else layer()


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.usefixtures("quick_compilation")
def test_equals_the_layer(name, arrays):
    params, x, cotangent = arrays
    graph = GRAPHS[name]
    layer, nodewise = the_layer(graph), NodewiseLayer(graph, num_groups=4)
    stats = layer.init(jax.random.key(0), x, use_running_average=True).get("batch_stats", {})
    assert set(stats) == set(nodewise.statistics)
    # Not where they start, so that it matters that they are read.
    stats = {k: v + 0.5 for k, v in stats.items()}

    def apply(params, x):
        y, updates = layer.apply(
            {"params": params, "batch_stats": stats},
            x,
            use_running_average=False,
            mutable=["batch_stats"],
        )
        return y, updates.get("batch_stats", {})

    wanted, pullback, wanted_stats = jax.vjp(apply, params, x, has_aux=True)
    wanted_params, wanted_x = pullback(cotangent)
    y, after, tape = nodewise.forward(params, stats, x, train=True)
    got_params, got_x = nodewise.backward(tape, cotangent)
    close = {"rtol": 2e-5, "atol": 2e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), after, wanted_stats)
    np.testing.assert_allclose(y, wanted, **close)
    np.testing.assert_allclose(got_x, wanted_x, **close)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got_params, wanted_params)

    in_evaluation = layer.apply(
        {"params": params, "batch_stats": stats}, x, use_running_average=True
    )
    y, after, _ = nodewise.forward(params, stats, x, train=False)
    np.testing.assert_allclose(y, in_evaluation, **close)
    assert after == stats


@pytest.mark.usefixtures("quick_compilation")
def test_what_others_hand_back_is_added(arrays):
    params, x, cotangent = arrays
    nodewise = NodewiseLayer(GRAPHS["evonorm_s1"], num_groups=4)
    *_, tape = nodewise.forward(params, {}, x, train=True)
    _, alone = nodewise.backward(tape, cotangent)
    _, together = nodewise.backward(tape, cotangent, total=10 * x)
    np.testing.assert_allclose(together, alone + 10 * x, rtol=1e-5)
