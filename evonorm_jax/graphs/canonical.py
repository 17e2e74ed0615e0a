"""One form, text and hash for all graphs that are the same program.

Unused nodes are dropped, equal nodes merged, the inputs of commutative primitives ordered, and what
is left is numbered in the order in which the output needs it. Graphs that compute the same by
algebra (`max(x, x)` and `x`) stay apart here; the search finds those by their values.

>>> from evonorm_jax.graphs.graph import Graph
>>> one = Graph.from_text("n4 = exp(v0); n5 = sigmoid(x); n6 = mul(n5, x)")
>>> two = Graph.from_text("n4 = sigmoid(x); n5 = sigmoid(x); n6 = mul(x, n5)")
>>> print(canonical(one))
n4 = sigmoid(x); n5 = mul(x, n4)
>>> canonical_hash(one) == canonical_hash(two)
True
"""

import functools
import hashlib
from typing import NamedTuple

from evonorm_jax.graphs.graph import INITIAL_NODES, Graph, Node
from evonorm_jax.graphs.primitives import Primitive


class _Key(NamedTuple):
    """What a node computes, independent of its number; compares low and simple nodes first."""

    height: int
    name: str
    digest: str


@functools.lru_cache(maxsize=4096)
def canonical(graph: Graph) -> Graph:
    """Returns the canonical form: a graph of the effective nodes alone, whose own form it is."""
    parts: dict[_Key, tuple[str, list[_Key]]] = {}
    initial = [_Key(0, str(i), "") for i in range(len(INITIAL_NODES))]

    def key(index: int, primitive: Primitive, inputs: list[_Key]) -> _Key:
        del index
        if primitive.commutative:
            inputs = sorted(inputs)
        result = _Key(
            1 + max(part.height for part in inputs),
            primitive.name,
            _digest(f"{primitive.name}{[tuple(part) for part in inputs]}"),
        )
        parts[result] = (primitive.name, inputs)
        return result

    output = graph.fold(initial, key)
    numbers = {part: i for i, part in enumerate(initial)}
    nodes: list[Node] = []

    def number(part: _Key) -> int:
        if part not in numbers:
            name, inputs = parts[part]
            indices = tuple(number(i) for i in inputs)
            nodes.append(Node(name, indices))
            numbers[part] = len(INITIAL_NODES) + len(nodes) - 1
        return numbers[part]

    number(output)
    return Graph(tuple(nodes))


def canonical_hash(graph: Graph) -> str:
    """Returns 16 hexadecimal digits of the canonical text, the same on every machine."""
    return _digest(canonical(graph).to_text())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
