"""Pictures: what is in them, unused nodes grey; DOT text by its lines."""

import struct

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.drawing import draw_graph, to_dot
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.search.evolution.space import pad_graph, random_graph

GRAPH = Graph.from_text("n4 = std_bwh(v0); n5 = rms_whcg(x); n6 = div(x, n5)")


def test_dot():
    assert to_dot(GRAPH).splitlines() == [
        "digraph layer {",
        "  rankdir=BT;",
        "  node [shape=box, style=rounded];",
        '  n0 [label="x"];',
        '  n1 [label="0", color="#a0a0a0", fontcolor="#a0a0a0"];',
        '  n2 [label="v₀", color="#a0a0a0", fontcolor="#a0a0a0"];',
        '  n3 [label="v₁", color="#a0a0a0", fontcolor="#a0a0a0"];',
        '  n4 [label="√s²[b,w,h]", color="#a0a0a0", fontcolor="#a0a0a0"];',
        '  n5 [label="√μ²[w,h,c/g]"];',
        '  n6 [label="a / b", penwidth=2];',
        '  n2 -> n4 [color="#a0a0a0"];',
        "  n0 -> n5;",
        '  n0 -> n6 [headlabel="a"];',
        '  n5 -> n6 [headlabel="b"];',
        "}",
    ]
    assert "#a0a0a0" not in to_dot(GRAPH, unused=False)


def read_svg(path):
    return path.read_text(encoding="utf-8")


def test_the_picture_shows_every_node(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        whole = read_svg(draw_graph(GRAPH, tmp_path / "new" / "whole.svg"))
        used = read_svg(draw_graph(GRAPH, tmp_path / "used.svg", unused=False, title="Mine"))
    for symbol in ("√s²[b,w,h]", "√μ²[w,h,c/g]", "a / b", "v₀", "v₁", ">x<", ">0<", ">b<"):
        assert symbol in whole
    assert "x / √μ[w,h,c/g](x²)" in whole
    assert "#a0a0a0" in whole
    assert "Mine" in used
    assert "√μ²[w,h,c/g]" in used
    assert "√s²" not in used
    assert "#a0a0a0" not in used


def test_png(tmp_path):
    rng = np.random.default_rng(0)
    graphs = [pad_graph(LIBRARY["evonorm_s0"], rng), random_graph(rng)]
    graphs += [Graph.from_text("n4 = mul(x, x)"), Graph.from_text("n4 = exp(0)")]
    for index, graph in enumerate(graphs):
        content = draw_graph(graph, tmp_path / f"{index}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert min(width, height) > 100


def test_an_unknown_format(tmp_path):
    with pytest.raises(UserError, match=r"must end in one of .*\.png.*\.svg"):
        draw_graph(GRAPH, tmp_path / "layer.xyz")
