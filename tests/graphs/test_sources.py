"""Sources of graphs: a name, a file, the text itself, with or without a label."""

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.graphs.sources import inline_graph, read_graph


def test_sources_of_graphs(tmp_path):
    text = "n4 = sigmoid(x); n5 = mul(x, n4)"
    graph = Graph.from_text(text)
    path = tmp_path / "mine.v2.json"
    graph.save(path, scores=[0.5])
    assert read_graph(str(path)) == read_graph(text) == read_graph(f"mine: {text}") == graph
    assert read_graph("gn_relu") == LIBRARY["gn_relu"]
    assert inline_graph(str(path)) == f"mine.v2: {text}"
    assert inline_graph(f"mine.v2: {text}") == f"mine.v2: {text}"
    with pytest.raises(UserError, match=r"there is no graph file 'evonorm_so'.*evonorm_s0"):
        read_graph("evonorm_so")
    with pytest.raises(UserError, match="there is no graph file"):
        read_graph("n5 = mul(x, n4); " * 40)  # longer than a path may be


@pytest.mark.hostile
@pytest.mark.parametrize("source", ["x: " + " " * 100_000, "x:" * 50_000, " " * 100_000 + "n5"])
def test_names_that_took_minutes_are_no_file(source):
    with pytest.raises(UserError, match="there is no graph file") as error:
        read_graph(source)
    assert len(str(error.value)) < 1000
