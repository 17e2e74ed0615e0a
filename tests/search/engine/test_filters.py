"""The cheap filters: each fires for a layer made for it, none for a known layer."""

import numpy as np
import pytest

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.search.engine import filters
from evonorm_jax.search.engine.filters import Duplicates, FilterConfig, functional_hash, reject
from evonorm_jax.search.engine.probes import make_probe
from evonorm_jax.search.engine.verdicts import Reason
from evonorm_jax.search.evolution.mutation import mutate_layer
from evonorm_jax.search.evolution.space import pad_graph, random_graph

#: The paper's "Random" has no place of the map left in it, and is its example of a failure.
TRAINABLE = [name for name in LIBRARY if name != "random"]

EXAMPLES = {
    Reason.NO_PATH_FROM_X: ["n4 = exp(v1)", "n4 = tanh(x); n5 = mul(v0, v1)"],
    Reason.NONFINITE: [
        "n4 = div(x, 0)",
        "n4 = max(x, 0); n5 = div(x, n4)",
        "n4 = square(x); n5 = exp(n4); n6 = exp(n5)",
        # 1 / 0 at the initial v0.
        "n4 = div(v1, v0); n5 = mul(x, n4)",
        # Up to 3e159: finite in float64 alone.
        "n4 = square(x); n5 = exp(n4); n6 = square(n5); n7 = square(n6)",
    ],
    Reason.CONSTANT: [
        "n4 = neg(x); n5 = add(x, n4)",
        "n4 = square(x); n5 = neg(n4); n6 = max(n5, 0)",
        "n4 = mul(x, 0)",
        "n4 = std_wh(x); n5 = std_wh(n4)",
    ],
    Reason.SAME_FOR_ALL_EXAMPLES: ["n4 = rms_bwh(x)", "n4 = mean_bwh(x); n5 = tanh(n4)"],
    Reason.NO_SPATIAL_DEPENDENCE: [
        "n4 = mean_wh(x)",
        "n4 = std_whc(x); n5 = rms_bwh(x); n6 = div(n4, n5)",
    ],
    Reason.BLOW_UP: ["n4 = exp(x)", "n4 = square(x); n5 = square(n4)"],
    Reason.DEAD: ["n4 = mean_wh(x); n5 = neg(n4); n6 = add(x, n5)"],
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_known_layers_pass(name):
    graph = LIBRARY[name]
    assert reject(graph) is None
    assert reject(pad_graph(graph, np.random.default_rng(0))) is None


def test_only_the_initial_parameters_count():
    """v1 = 1 divides well; that it could become 0 or negative is for training to find out."""
    assert reject(Graph.from_text("n4 = max(v1, 0); n5 = tanh(x); n6 = div(n5, n4)")) is None


def test_the_random_layer_of_the_paper_does_not():
    assert reject(LIBRARY["random"]).reason == Reason.NO_SPATIAL_DEPENDENCE


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in EXAMPLES.items() for text in texts]
)
def test_each_reason(reason, text):
    rejection = reject(Graph.from_text(text))
    assert rejection is not None
    assert rejection.reason == reason
    assert str(rejection).startswith(reason)


def test_every_reason_has_an_example():
    assert {*EXAMPLES, Reason.DUPLICATE} == set(Reason)


def test_thresholds():
    graph = Graph.from_text("n4 = square(x)")
    assert reject(graph).reason == Reason.BLOW_UP
    assert reject(graph, FilterConfig(num_blocks=1)) is None
    swish = LIBRARY["evonorm_s1"]
    assert reject(swish, FilterConfig(max_activation=1.0)).reason == Reason.BLOW_UP
    assert reject(swish, FilterConfig(min_variation=100.0)).reason == Reason.CONSTANT


def test_verdicts_are_of_the_layer_and_repeat():
    rng = np.random.default_rng(0)
    for _ in range(50):
        graph = random_graph(rng)
        verdict = reject(graph)
        assert verdict == reject(graph)
        if verdict is None or verdict.reason != Reason.NO_PATH_FROM_X:
            assert reject(pad_graph(graph, rng)) == verdict


def test_most_random_graphs_are_rejected_and_most_children_of_layers_not():
    rng = np.random.default_rng(0)
    verdicts = [reject(random_graph(rng)) for _ in range(300)]
    assert sum(verdict is None for verdict in verdicts) < 60
    assert {Reason.NO_PATH_FROM_X, Reason.NO_SPATIAL_DEPENDENCE} < {
        verdict.reason for verdict in verdicts if verdict
    }
    parent = pad_graph(LIBRARY["evonorm_s0"], rng)
    verdicts = [reject(mutate_layer(parent, rng)) for _ in range(60)]
    assert sum(verdict is None for verdict in verdicts) > 20


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("n4 = max(x, x)", "n4 = add(x, 0)"),
        ("n4 = neg(x); n5 = neg(n4)", "n4 = mean_whc(v1); n5 = max(x, x)"),
        ("n4 = square(x); n5 = sqrt(n4)", "n4 = abs(x)"),
        (
            "n4 = add(x, v0); n5 = mul(n4, v1)",
            "n4 = mul(x, v1); n5 = mul(v0, v1); n6 = add(n4, n5)",
        ),
        (
            "n4 = mean_wh(x); n5 = mean_bwh(n4); n6 = add(x, n5)",
            "n4 = mean_bwh(x); n5 = add(x, n4)",
        ),
        # (x + 1) r of the paper, with 1 = exp(0), and x r + r.
        (
            "n4 = exp(0); n5 = add(x, n4); n6 = rms_wh(x); n7 = mul(n5, n6); n8 = std_bwh(x);"
            "n9 = max(n7, n8); n10 = div(x, n9)",
            LIBRARY["evonorm_b1"].to_text(),
        ),
    ],
)
def test_equal_functions_have_one_hash(one, two):
    assert functional_hash(Graph.from_text(one)) == functional_hash(Graph.from_text(two))


def test_different_functions_have_different_hashes():
    texts = [
        "n4 = add(x, 0)",
        "n4 = neg(x)",
        "n4 = add(x, x)",
        "n4 = mul(x, v1)",
        "n4 = add(x, v0)",
        "n4 = max(x, 0)",
        "n4 = max(x, v0)",
        "n4 = tanh(x)",
        "n4 = sigmoid(x)",
        "n4 = std_wh(x)",
        "n4 = std_whc(x)",
        "n4 = std_whcg(x)",
        "n4 = std_bwh(x)",
        "n4 = mean_wh(x); n5 = add(x, n4)",
        "n4 = div(x, 0)",
        "n4 = abs(x); n5 = div(n4, 0)",
        "n4 = add(0, 0)",
    ]
    graphs = [*map(Graph.from_text, texts), *LIBRARY.values()]
    assert len({functional_hash(graph) for graph in graphs}) == len(graphs)


def test_hashes_tell_apart_what_differs_in_values():
    """No false merge among random layers: equal hashes mean equal outputs on another probe."""
    rng = np.random.default_rng(0)
    by_hash: dict[str, Graph] = {}
    other, merged = make_probe(99), 0
    for _ in range(1500):
        graph = random_graph(rng)
        if 0 not in graph.effective:
            continue
        first = by_hash.setdefault(functional_hash(graph), graph)
        if first != graph:
            merged += 1
            a, b = other.evaluate(first), other.evaluate(graph)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.nanmax(np.abs(a), initial=0))
    assert merged > 20


def test_duplicates():
    seen = Duplicates()
    assert seen.check("aa", candidate=3) is None
    assert seen.check("aa", candidate=3) is None, "its own"
    assert seen.check("bb", candidate=4) is None
    verdict = seen.check("aa", candidate=5)
    assert verdict == filters.Rejection(Reason.DUPLICATE, "computes the function of candidate 3")
