"""Where a graph comes from: what may follow `graph:` in the name of a layer.

>>> print(read_graph("mine: n4 = sigmoid(x); n5 = mul(x, n4)"))
n4 = sigmoid(x); n5 = mul(x, n4)
"""

import re
from pathlib import Path

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import shorten
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY

#: What the name of a searched layer starts with.
PREFIX = "graph:"

# A graph in place, after a label where it was read from a file. No path looks like that. Only one
# part takes the spaces behind the colon: two would try each way to share them, which for 100,000
# spaces took over 30 s.
_INLINE = re.compile(r"(?:(?P<label>[^:=]+):)?(?P<text>\s*n4\s*=.*)", re.DOTALL)


def read_graph(source: str) -> Graph:
    """Reads the graph that `source` names: what follows `graph:` in the name of a layer.

    Args:
      source: A name of `LIBRARY`, the path of a graph file, or the text of a graph, with or
        without a label: `n4 = exp(x)`, `mine: n4 = exp(x)`.

    Raises:
      UserError: It is none of the three; the message lists the names.
    """
    if source in LIBRARY:
        return LIBRARY[source]
    if match := _INLINE.fullmatch(source):
        return Graph.from_text(match["text"])
    try:
        is_file = Path(source).is_file()
    except OSError:  # too long for a path
        is_file = False
    if not is_file:
        quoted = shorten(source)
        brief = quoted.strip("'")
        raise UserError(
            f"{PREFIX}{brief}: there is no graph file {quoted}. Give the path of one, the text of "
            f"a graph (n4 = sigmoid(x); n5 = mul(x, n4)), or a known layer: {', '.join(LIBRARY)}"
        )
    return Graph.load(source)


def inline_graph(source: str) -> str:
    """Returns the same source without need of a file: the graph's text after the file's name.

    A run keeps this in its configuration, so that it can be resumed and evaluated wherever it is
    moved, and notices when the file holds another graph.

    >>> inline_graph("evonorm_s0"), inline_graph("n4 = exp(x)")
    ('evonorm_s0', 'n4 = exp(x)')
    """
    graph = read_graph(source)
    if source in LIBRARY or _INLINE.fullmatch(source):
        return source
    label = re.sub(r"[:=]", "_", Path(source).stem)
    return f"{label}: {graph.to_text()}"
