"""Random graphs, the S restriction, padding and mutation: what is drawn, and how often."""

from collections import Counter

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import Graph, check_depends_on_x
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.graphs.primitives import PRIMITIVES
from evonorm_jax.search.evolution.mutation import mutate, mutate_layer
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph, random_graph

B, S = SearchSpace(), SearchSpace(batch_moments=False)
S_WHOLE = SearchSpace(batch_moments=False, whole_graph=True)
SPACES = [B, S, S_WHOLE]


def rng(seed=0):
    return np.random.default_rng(seed)


def batch_dependent(graph, effective=True):
    return any(primitive.batch_dependent for primitive in graph.primitives(effective=effective))


def assert_uniform(counts, values):
    """Within four standard deviations of a uniform draw over the values, for each of them."""
    total, share = sum(counts.values()), 1 / len(values)
    assert set(counts) <= set(values)
    spread = 4 * np.sqrt(total * share * (1 - share))
    assert all(abs(counts[value] - total * share) < spread for value in values)


def test_random_graphs_are_drawn_uniformly():
    generator = rng()
    graphs = [random_graph(generator) for _ in range(2000)]
    assert all(len(graph.nodes) == 10 for graph in graphs)
    assert_uniform(Counter(n.primitive for g in graphs for n in g.nodes), list(PRIMITIVES))
    assert_uniform(Counter(i for g in graphs for i in g[9].inputs), range(9))


def test_random_graphs_come_from_the_seed():
    assert random_graph(rng(5)) == random_graph(rng(5)) != random_graph(rng(6))
    assert len(random_graph(rng(), SearchSpace(num_nodes=3)).nodes) == 3


def test_the_s_space_restricts_what_reaches_the_output():
    generator = rng()
    graphs = [random_graph(generator, S) for _ in range(300)]
    assert not any(map(batch_dependent, graphs))
    # As in the paper's figure of EvoNorm-S0, the unused nodes may hold batch moments.
    assert any(batch_dependent(graph, effective=False) for graph in graphs)
    graphs = [random_graph(generator, S_WHOLE) for _ in range(300)]
    assert not any(batch_dependent(graph, effective=False) for graph in graphs)
    assert len(S_WHOLE.primitives) == 21
    assert any(batch_dependent(random_graph(generator, B)) for _ in range(30))


def test_contains_and_check_layer():
    unused = Graph.from_text("n4 = std_bwh(x); n5 = tanh(x)")
    used = Graph.from_text("n4 = std_bwh(x); n5 = div(x, n4)")
    two = {"num_nodes": 2}
    assert SearchSpace(**two).contains(used)
    assert not B.contains(used), "ten nodes"
    assert SearchSpace(batch_moments=False, **two).contains(unused)
    assert not SearchSpace(batch_moments=False, **two).contains(used)
    assert not SearchSpace(batch_moments=False, whole_graph=True, **two).contains(unused)
    B.check_layer(used)
    S.check_layer(unused)
    with pytest.raises(UserError, match="std_bwh is a moment over the batch, and the effective gr"):
        S.check_layer(used)
    with pytest.raises(UserError, match="std_bwh is a moment over the batch, and the graph of an "):
        S_WHOLE.check_layer(unused)


def test_no_path_from_x():
    graph = Graph.from_text("n4 = exp(x); n5 = mul(v0, v1)")
    for space in SPACES:
        with pytest.raises(UserError, match=r"no path leads from x to the output.*n5 = mul\(v0, v"):
            space.check_layer(graph)
    with pytest.raises(UserError, match="no path leads from x"):
        check_depends_on_x(graph)


def test_a_space_without_nodes():
    with pytest.raises(UserError, match=r"space\.num_nodes=0; it must be at least 1"):
        SearchSpace(num_nodes=0)


@pytest.mark.parametrize("name", LIBRARY)
def test_padding_keeps_the_layer(name):
    padded = pad_graph(LIBRARY[name], rng(), B)
    assert len(padded.nodes) == 10
    assert B.contains(padded)
    assert canonical(padded) == canonical(LIBRARY[name])


def test_padding_that_cannot_be():
    with pytest.raises(UserError, match="8 nodes does not fit a space of num_nodes=5"):
        pad_graph(LIBRARY["bn_relu"], rng(), SearchSpace(num_nodes=5))
    with pytest.raises(UserError, match="moment over the batch"):
        pad_graph(LIBRARY["bn_relu"], rng(), S)


def test_mutation_redraws_one_node_uniformly():
    generator = rng()
    parent = random_graph(generator)
    changed, primitives, inputs = Counter(), Counter(), Counter()
    for _ in range(4000):
        child = mutate(parent, generator)
        places = [i for i in range(10) if child.nodes[i] != parent.nodes[i]]
        assert len(places) <= 1
        changed.update(places)
        if places == [9]:
            primitives[child.nodes[9].primitive] += 1
            inputs.update(child.nodes[9].inputs)
    # A draw that gives the same node again shows as no change: 1 in 24 times 4 inputs at the most.
    assert min(changed.values()) > 300
    assert max(changed.values()) < 500
    assert set(primitives) <= set(PRIMITIVES)
    assert len(primitives) > 20
    assert set(inputs) == set(range(13))


@pytest.mark.parametrize("space", SPACES)
def test_children_stay_in_the_space(space):
    generator = rng()
    graph = random_graph(generator, space)
    for _ in range(300):
        graph = mutate(graph, generator, space)
        assert space.contains(graph)


def test_mutation_of_the_layer_changes_what_it_computes():
    generator = rng()
    graph = pad_graph(LIBRARY["evonorm_s0"], generator)
    assert sum(canonical(mutate(graph, generator)) == canonical(graph) for _ in range(100)) > 20
    for _ in range(50):
        child = mutate_layer(graph, generator)
        assert canonical(child) != canonical(graph)


def test_mutation_of_a_graph_of_another_size():
    for function in (mutate, mutate_layer):
        with pytest.raises(UserError, match="8 nodes has no child in a space of num_nodes=10"):
            function(LIBRARY["bn_relu"], rng(), B)
