"""Pictures of graphs: PNG, SVG or PDF by matplotlib, or DOT text for Graphviz.

As in the paper's figures, nodes that the output does not depend on are grey.

>>> from evonorm_jax.graphs.graph import Graph
>>> print(to_dot(Graph.from_text("n4 = sigmoid(x); n5 = mul(x, n4)"), unused=False))
digraph layer {
  rankdir=BT;
  node [shape=box, style=rounded];
  n0 [label="x"];
  n4 [label="σ(·)"];
  n5 [label="·  ×  ·", penwidth=2];
  n0 -> n4;
  n0 -> n5;
  n4 -> n5;
}
"""

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.formula import INITIAL_SYMBOLS, formula
from evonorm_jax.graphs.graph import INITIAL_NODES, Graph
from evonorm_jax.graphs.primitives import PRIMITIVES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNUSED = "#a0a0a0"
_USED = "#000000"


def to_dot(graph: Graph, *, unused: bool = True) -> str:
    """Writes the graph in the DOT language, inputs at the bottom.

    Args:
      graph: The graph.
      unused: Whether to show the nodes that the output does not depend on, in grey.
    """
    lines = ["digraph layer {", "  rankdir=BT;", "  node [shape=box, style=rounded];"]
    shown = _shown(graph, unused)
    for index in shown:
        style = "" if index in graph.effective else f', color="{_UNUSED}", fontcolor="{_UNUSED}"'
        style += ", penwidth=2" if index == graph.output else ""
        lines.append(f'  n{index} [label="{_symbol(graph, index)}"{style}];')
    for source, target, place in _edges(graph, shown):
        styles = [] if target in graph.effective else [f'color="{_UNUSED}"']
        if name := _operand(graph, target, place):
            styles.append(f'headlabel="{name}"')
        attributes = f" [{', '.join(styles)}]" if styles else ""
        lines.append(f"  n{source} -> n{target}{attributes};")
    return "\n".join([*lines, "}"])


def draw_graph(
    graph: Graph,
    output: str | os.PathLike[str],
    *,
    title: str | None = None,
    unused: bool = True,
) -> Path:
    """Draws the graph into the PNG (or SVG, PDF) file `output`.

    Args:
      graph: The graph.
      output: The image file; its folder is made if need be.
      title: The text above the picture; None writes the formula.
      unused: Whether to show the nodes that the output does not depend on, in grey.

    Returns:
      The path of the image.

    Raises:
      UserError: The ending of `output` names no image format.
    """
    figure = graph_figure(graph, title=title, unused=unused)
    output = Path(output)
    formats = figure.canvas.get_supported_filetypes()
    if output.suffix.lstrip(".") not in formats:
        raise UserError(f"'{output}' must end in one of .{', .'.join(sorted(formats))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return output


def graph_figure(graph: Graph, *, title: str | None = None, unused: bool = True) -> "Figure":
    """Draws the graph as a figure of matplotlib, inputs at the bottom.

    Args:
      graph: The graph.
      title: The text above the picture; None writes the formula.
      unused: Whether to show the nodes that the output does not depend on, in grey.
    """
    from matplotlib.figure import Figure  # not needed for the DOT form, nor installed with layers

    places, bends = _layout(graph, _shown(graph, unused))
    width = 1.6 * (1 + max(x for x, _ in places.values()))
    height = 0.8 * (1 + max(y for _, y in places.values()))
    title = formula(graph, "unicode") if title is None else title
    # A first drawing, at the final resolution, gives the boxes the sizes that arrows end at.
    figure = Figure(figsize=(max(width, 0.085 * len(title) + 0.5), height + 0.35), dpi=150)
    axis = figure.add_axes((0.0, 0.0, 1.0, height / (height + 0.35)))
    _draw_nodes(axis, graph, places)
    figure.draw_without_rendering()
    _draw_edges(axis, graph, places, bends)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / (height + 0.35), va="top")
    return figure


def _shown(graph: Graph, unused: bool) -> list[int]:
    every = range(graph.output + 1)
    return [index for index in every if unused or index in graph.effective]


def _symbol(graph: Graph, index: int) -> str:
    if index < len(INITIAL_NODES):
        return INITIAL_SYMBOLS[index]
    return PRIMITIVES[graph[index].primitive].label()


def _edges(graph: Graph, shown: list[int]) -> list[tuple[int, int, int]]:
    """Returns (source, target, which input of the target) of every edge that is shown."""
    return [
        (source, target, place)
        for target in shown
        if target >= len(INITIAL_NODES)
        for place, source in enumerate(graph[target].inputs)
    ]


def _operand(graph: Graph, target: int, place: int) -> str:
    """Returns `a` or `b` where it matters which input is which."""
    primitive = PRIMITIVES[graph[target].primitive]
    return "ab"[place] if primitive.arity == 2 and not primitive.commutative else ""


_Point = tuple[float, float]
_Edge = tuple[int, int, int]


def _layout(graph: Graph, shown: list[int]) -> tuple[dict[int, _Point], dict[_Edge, list[_Point]]]:
    """Places each node by column and row, and finds the points that longer edges pass through.

    Sugiyama's scheme: a node stands above its inputs; an edge over several rows gets a place of
    its own in those between, so that it runs around the boxes; and each row is ordered by the
    mean column of what its members are joined to, swept up and down until that settles.
    """
    rows = _rows(graph, shown)
    levels: list[list[Any]] = [[] for _ in range(1 + max(rows.values()))]
    for index in shown:
        levels[rows[index]].append(index)
    joined: dict[Any, list[Any]] = {index: [] for index in shown}
    chains = {}
    for edge in _edges(graph, shown):
        source, target, _ = edge
        between = [(*edge, row) for row in range(rows[source] + 1, rows[target])]
        for passing in between:
            levels[passing[-1]].append(passing)
            joined[passing] = []
        chain = [source, *between, target]
        for lower, upper in itertools.pairwise(chain):
            joined[lower].append(upper)
            joined[upper].append(lower)
        chains[edge] = between
    columns = _columns(levels, joined)
    points = {item: (columns[item], float(y)) for y, level in enumerate(levels) for item in level}
    places = {index: points[index] for index in shown}
    return places, {edge: [points[i] for i in between] for edge, between in chains.items()}


def _rows(graph: Graph, shown: list[int]) -> dict[int, int]:
    """Puts a node above its highest input, and constants and vectors just below their users."""
    rows = dict.fromkeys(shown, 0)
    for index in shown:
        if index >= len(INITIAL_NODES):
            rows[index] = 1 + max(rows[i] for i in graph[index].inputs)
    rows[graph.output] = max(max(rows.values()), rows[graph.output])
    for index in shown:
        users = [rows[target] for source, target, _ in _edges(graph, shown) if source == index]
        if 0 < index < len(INITIAL_NODES) and users:
            rows[index] = min(users) - 1
    return rows


def _columns(levels: list[list[Any]], joined: dict[Any, list[Any]]) -> dict[Any, float]:
    """Orders each level by the mean column of what its members are joined to."""
    widest = max(map(len, levels))
    columns: dict[Any, float] = {}
    for level in levels:
        columns.update({item: float(place) for place, item in enumerate(level)})
    for sweep in range(12):
        for level in levels if sweep % 2 else reversed(levels):
            centres = {
                item: sum(columns[other] for other in joined[item]) / max(len(joined[item]), 1)
                for item in level
            }
            level.sort(key=centres.__getitem__)  # stable: ties stay as they are
            for place, item in enumerate(level):
                columns[item] = (place + 0.5) * widest / len(level) - 0.5
    return columns


def _draw_nodes(axis: Any, graph: Graph, places: dict[int, _Point]) -> None:
    axis.set_axis_off()
    axis.set_xlim(-0.6, max(x for x, _ in places.values()) + 0.6)
    axis.set_ylim(-0.5, max(y for _, y in places.values()) + 0.5)
    for index, (x, y) in places.items():
        colour = _USED if index in graph.effective else _UNUSED
        box = {
            "boxstyle": "round,pad=0.45",
            "facecolor": "#e8f0fa" if index < len(INITIAL_NODES) else "white",
            "edgecolor": colour,
            "linewidth": 2.2 if index == graph.output else 1.0,
        }
        symbol = _symbol(graph, index)
        axis.text(x, y, symbol, ha="center", va="center", color=colour, zorder=3, bbox=box)


def _draw_edges(
    axis: Any,
    graph: Graph,
    places: dict[int, _Point],
    bends: dict[_Edge, list[_Point]],
) -> None:
    boxes = dict(zip(places, [text.get_bbox_patch() for text in axis.texts], strict=True))
    for edge, between in bends.items():
        source, target, place = edge
        colour = _USED if target in graph.effective else _UNUSED
        path = [places[source], *between]
        axis.plot(*zip(*path, strict=True), color=colour, linewidth=1.0, zorder=1)
        parallel = not between and graph[target].inputs.count(source) > 1
        arrow = {
            "arrowstyle": "-|>",
            "color": colour,
            "patchB": boxes[target],
            "connectionstyle": f"arc3,rad={(0.25, -0.25)[place] if parallel else 0.0}",
            "shrinkA": 0,
            "shrinkB": 1,
        }
        axis.annotate("", xy=places[target], xytext=path[-1], arrowprops=arrow, zorder=2)
        if name := _operand(graph, target, place):
            (x0, y0), (x1, y1) = path[-1], places[target]
            spot = (x1 + 0.4 * (x0 - x1), y1 + 0.4 * (y0 - y1))
            white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            axis.text(*spot, name, ha="center", va="center", color=colour, fontsize=9, bbox=white)
