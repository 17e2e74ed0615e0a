"""Graphs: construction, text and JSON forms, and one clear message for each kind of bad input."""

import json

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import GRAPH_FORMAT, Graph, Node
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.graphs.primitives import PRIMITIVES
from evonorm_jax.graphs.reductions import INDEX_SETS
from evonorm_jax.search.evolution.space import random_graph

TEXT = "n4 = sigmoid(x); n5 = exp(v0); n6 = div(x, n4)"
GRAPH = Graph((Node("sigmoid", (0,)), Node("exp", (2,)), Node("div", (0, 4))))


def test_the_primitives_are_those_of_the_paper():
    arity_two = {"add", "mul", "div", "max"}
    arity_one = {"neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt"}
    aggregations = {
        f"{m}_{s}" for m in ("mean", "std", "rms") for s in ("bwh", "whc", "wh", "whcg")
    }
    assert set(PRIMITIVES) == arity_two | arity_one | aggregations
    assert len(PRIMITIVES) == 24
    for name, primitive in PRIMITIVES.items():
        assert primitive.name == name
        assert primitive.arity == (2 if name in arity_two else 1)
        assert primitive.commutative == (name in arity_two - {"div"})
        assert (primitive.index_set in INDEX_SETS) == (name in aggregations)
        assert primitive.batch_dependent == name.endswith("_bwh")


def test_nodes_and_effective_graph():
    assert GRAPH.output == 6
    assert GRAPH[4] == Node("sigmoid", (0,))
    assert GRAPH.effective == {0, 4, 6}
    assert [primitive.name for primitive in GRAPH.primitives()] == ["sigmoid", "div"]
    assert len(GRAPH.primitives(effective=False)) == 3


def test_fold_visits_effective_nodes_once_in_order():
    visited = []

    def apply(index, primitive, inputs):
        visited.append((index, primitive.name))
        return f"{primitive.name}({', '.join(inputs)})"

    assert GRAPH.fold(["x", "0", "v0", "v1"], apply) == "div(x, sigmoid(x))"
    assert visited == [(4, "sigmoid"), (6, "div")]


def test_text_and_json_forms():
    assert GRAPH.to_text() == str(GRAPH) == TEXT
    assert Graph.from_text(TEXT) == GRAPH
    assert Graph.from_text("\n n4=sigmoid( x ) ;n5 = exp(v0);\n n6 = div(x,n4) ;\n") == GRAPH
    content = json.loads(GRAPH.to_json(score=0.5))
    assert content == {
        "format": GRAPH_FORMAT,
        "nodes": TEXT.split("; "),
        "metadata": {"score": 0.5},
    }
    assert Graph.from_json(GRAPH.to_json(score=0.5)) == GRAPH


def test_forms_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "layer.json"
    for graph in [*LIBRARY.values(), *(random_graph(rng) for _ in range(200))]:
        assert Graph.from_text(graph.to_text()) == graph
        assert Graph.from_json(graph.to_json()) == graph
    graph.save(path)
    assert Graph.load(path) == graph


def test_graphs_are_values():
    same = Graph.from_text(TEXT)
    assert hash(same) == hash(GRAPH)
    assert {same: 1}[GRAPH] == 1
    with pytest.raises(AttributeError):
        same.nodes = ()
    assert Graph([["exp", [0]]]) == Graph((Node("exp", (0,)),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n4 = mul(x, n5); n5 = exp(n4)", r"n4 = mul\(x, n5\): .* n5 is none of them; .* cycle"),
        ("n4 = exp(n4)", r"n4 = exp\(n4\): .* itself is none of them"),
        ("n4 = exp(n9)", "n9 is none of them"),
        ("n4 = relu(x)", "unknown primitive 'relu'. Known: add, mul, div, max, neg"),
        ("n4 = mul(x)", "mul takes 2 inputs, not 1"),
        ("n4 = exp(x, x)", "exp takes 1 input, not 2"),
        ("n4 = exp(y)", "there is no node 'y'; nodes are x, 0, v0, v1 and n4"),
        ("n4 = exp()", "there is no node ''"),
        ("n5 = exp(x)", "numbered in order, so this is n4"),
        ("exp(x)", r"'exp\(x\)' is not a node: write it like n4 = mul\(x, v1\)"),
        ("n4 = exp(x);; n5 = exp(n4)", "'' is not a node"),
        ("", "'' is not a node"),
    ],
)
def test_bad_text(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Graph.from_text(text)
    path = tmp_path / "layer.json"
    path.write_text(json.dumps({"format": GRAPH_FORMAT, "nodes": text.split(";")}))
    with pytest.raises(UserError, match=message) as raised:
        Graph.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_no_nodes():
    with pytest.raises(UserError, match="at least one node"):
        Graph(())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[]", 'expected a JSON object with "format"'),
        ('{"format": "other", "nodes": []}', f'"format": "{GRAPH_FORMAT}"'),
        (f'{{"format": "{GRAPH_FORMAT}"}}', 'has "nodes", a list of texts'),
        (f'{{"format": "{GRAPH_FORMAT}", "nodes": [1]}}', 'has "nodes", a list of texts'),
        (f'{{"format": "{GRAPH_FORMAT}", "nodes": []}}', "at least one node"),
        (f'{{"format": "{GRAPH_FORMAT}", "nodes": [], "extra": 1}}', "unknown field 'extra'"),
    ],
)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "layer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        Graph.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none.json' cannot be read: No such file"):
        Graph.load(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="cannot be read: 'utf-8' codec"):
        Graph.load(tmp_path / "binary")


def chain(length):
    return "; ".join(f"n{i} = exp({'x' if i == 4 else f'n{i - 1}'})" for i in range(4, 4 + length))


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (chain(1100), "the graph has 1,100 nodes, but at most 256 are read"),
        (f"n4 = exp(n{'9' * 5000})", r"n4 = exp\(n9+\.\.\.: there is no node 'n9+\.\.\.;"),
        (f"n{'4' * 5000} = exp(x)", r"the nodes are numbered in order, so this is n4"),
        ("y" * 100_000, r"^'y{96}\.\.\. is not a node"),
        ("n4" + " " * 100_000, "is not a node"),
        ("n4 = exp(" + "(" * 100_000, "is not a node"),
    ],
)
def test_hostile_texts_are_one_short_message(text, message):
    with pytest.raises(UserError, match=message) as error:
        Graph.from_text(text)
    assert len(str(error.value)) < 400


def test_the_largest_graph_is_read():
    assert len(Graph.from_text(chain(256)).nodes) == 256


@pytest.mark.hostile
@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\x00", ""])
def test_hostile_json_is_no_graph_file(text):
    with pytest.raises(UserError, match=r"not a graph file: no JSON \("):
        Graph.from_json(text)
