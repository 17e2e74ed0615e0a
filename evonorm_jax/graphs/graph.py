"""A layer as a graph of primitives (paper, section 2 and Figure 1), and its text and JSON forms.

Four initial nodes are given: the input `x`, the constant `0`, and the trainable vectors `v0`
(initialised to 0) and `v1` (to 1). Every further node applies a primitive to earlier nodes, and the
last one is the output. Nodes that the output does not depend on are allowed and stay: mutations
build on them.

>>> silu = Graph.from_text("n4 = sigmoid(x); n5 = mul(x, n4)")
>>> silu.output, sorted(silu.effective)
(5, [0, 4, 5])
>>> print(silu)
n4 = sigmoid(x); n5 = mul(x, n4)
>>> Graph.from_text("n4 = mul(x, n5); n5 = exp(x)")
Traceback (most recent call last):
    ...
evonorm_jax.errors.UserError: n4 = mul(x, n5): a node takes initial nodes (x, 0, v0, v1) and ...
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.field_rules import shorten
from evonorm_jax.graphs.primitives import PRIMITIVES, Primitive
from evonorm_jax.run_files import replacing

#: Names of nodes 0 to 3; node i > 3 is called `n<i>`.
INITIAL_NODES = ("x", "0", "v0", "v1")
X, ZERO, V0, V1 = range(len(INITIAL_NODES))

#: The largest graph that is read or that a search may propose. The paper's have 10 nodes; the
#: recursion that evaluates a graph would come to Python's limit at about 900.
MAX_NODES = 256

#: The first field of a graph file: it says what the file is, with the version of the format.
GRAPH_FORMAT = "evonorm_jax graph 1"

_NODE = re.compile(r"\s*(n\d+)\s*=\s*(\w+)\s*\(([^()]*)\)\s*")

_NO_NODE = "a graph needs at least one node besides x, 0, v0 and v1: its output"

Value = TypeVar("Value")


class Node(NamedTuple):
    """An intermediate node.

    Attributes:
      primitive: The name of the primitive.
      inputs: The indices of the nodes that the primitive is applied to.
    """

    primitive: str
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A tensor program from `[N, H, W, C]` to the same shape; immutable and hashable.

    Attributes:
      nodes: The intermediate nodes in order; `nodes[i]` has the index `i + 4`.

    Raises:
      UserError: On construction, if there is no node, a primitive is unknown, the number of inputs
        is not its arity, or an input is not an earlier node (so a cycle cannot exist).
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        nodes = tuple(Node(str(node[0]), tuple(map(int, node[1]))) for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        if not nodes:
            raise UserError(_NO_NODE)
        for index, node in enumerate(nodes, start=len(INITIAL_NODES)):
            _check_node(index, node)

    def __str__(self) -> str:
        return self.to_text()

    @property
    def output(self) -> int:
        """The index of the output, which is the last node."""
        return len(INITIAL_NODES) + len(self.nodes) - 1

    def __getitem__(self, index: int) -> Node:
        """Returns the intermediate node of that index (4 or more)."""
        return self.nodes[index - len(INITIAL_NODES)]

    @functools.cached_property
    def effective(self) -> frozenset[int]:
        """The indices of the nodes, initial ones included, that the output depends on."""
        found, waiting = set(), [self.output]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                if index >= len(INITIAL_NODES):
                    waiting.extend(self[index].inputs)
        return frozenset(found)

    def primitives(self, *, effective: bool = True) -> list[Primitive]:
        """Returns the primitives of the effective nodes, or of all nodes, in order."""
        return [
            PRIMITIVES[node.primitive]
            for index, node in enumerate(self.nodes, start=len(INITIAL_NODES))
            if not effective or index in self.effective
        ]

    def fold(
        self, initial: Sequence[Value], apply: Callable[[int, Primitive, list[Value]], Value]
    ) -> Value:
        """Computes the value of the output from those of the initial nodes.

        Args:
          initial: The values of x, 0, v0 and v1.
          apply: Computes the value of a node from its index, its primitive and the values of its
            inputs. It is called once for each effective node, in order.
        """
        values = dict(enumerate(initial))
        for index, node in enumerate(self.nodes, start=len(INITIAL_NODES)):
            if index in self.effective:
                inputs = [values[i] for i in node.inputs]
                values[index] = apply(index, PRIMITIVES[node.primitive], inputs)
        return values[self.output]

    # Text and JSON.

    def to_text(self) -> str:
        """Writes one line that `from_text` reads: `n4 = sigmoid(x); n5 = mul(x, n4)`."""
        return "; ".join(self.node_texts())

    def node_texts(self) -> list[str]:
        """Writes one text for each node, such as `n4 = sigmoid(x)`."""
        return [_node_text(i, node) for i, node in enumerate(self.nodes, len(INITIAL_NODES))]

    @classmethod
    def from_text(cls, text: str) -> "Graph":
        """Reads a graph that `to_text` wrote, or somebody by hand.

        Raises:
          UserError: The text does not have that form or is not that of a graph.
        """
        return cls._from_node_texts(text.strip().rstrip(";").split(";"))

    def to_json(self, **metadata: Any) -> str:
        """Writes the content of a graph file; `metadata` is kept there for people alone."""
        content: dict[str, Any] = {"format": GRAPH_FORMAT, "nodes": self.node_texts()}
        if metadata:
            content["metadata"] = metadata
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        """Reads the content of a graph file.

        Raises:
          UserError: The text is no JSON, has another form, or is not that of a graph.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; depth
            raise UserError(f"not a graph file: no JSON ({shorten(str(error))})") from error
        if not isinstance(content, dict) or content.get("format") != GRAPH_FORMAT:
            raise UserError(
                f'not a graph file: expected a JSON object with "format": "{GRAPH_FORMAT}" and '
                '"nodes"'
            )
        nodes = content.get("nodes")
        if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
            raise UserError('a graph file has "nodes", a list of texts such as "n4 = sigmoid(x)"')
        if unknown := content.keys() - {"format", "nodes", "metadata"}:
            raise UserError(
                f"unknown field {sorted(unknown)[0]!r} of a graph file, which has format, nodes "
                "and metadata"
            )
        return cls._from_node_texts(nodes)

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Writes a graph file, whole or not at all, with the graph and `metadata`."""
        with replacing(Path(path)) as temporary:
            temporary.write_text(self.to_json(**metadata), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Graph":
        """Reads a graph file.

        Raises:
          UserError: The file cannot be read or holds no graph; the message names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"the graph file '{path}' cannot be read: {reason}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def _from_node_texts(cls, texts: Sequence[str]) -> "Graph":
        if not texts:
            raise UserError(_NO_NODE)
        if len(texts) > MAX_NODES:
            raise UserError(
                f"the graph has {len(texts):,} nodes, but at most {MAX_NODES} are read: a layer of "
                "the paper has 10"
            )
        graph = cls.__new__(cls)  # its nodes are checked as they are read
        nodes, primitive_now = [], PRIMITIVES.get
        for index, text in enumerate(texts, start=len(INITIAL_NODES)):
            node, name, primitive = _read_node(index, text)
            if primitive_now(name) is not primitive:  # another row than when it was read
                _check_node(index, node)
            nodes.append(node)
        object.__setattr__(graph, "nodes", tuple(nodes))
        return graph


def node_name(index: int) -> str:
    """Returns `x`, `0`, `v0` or `v1` for an initial node, `n<index>` for any other."""
    return INITIAL_NODES[index] if index < len(INITIAL_NODES) else f"n{index}"


def check_depends_on_x(graph: Graph) -> None:
    """Raises `UserError` unless there is a path from x to the output."""
    if X not in graph.effective:
        raise UserError(
            f"no path leads from x to the output, the last node, of {graph}: such a layer would "
            "not see its input"
        )


# A ledger of 200,000 graphs has some 5,000 different nodes: read one by one they took 90 us a graph
# and 2 kB of memory, shared they take 3 us and 0.2 kB.
@functools.lru_cache(maxsize=2**14)
def _read_node(index: int, text: str) -> tuple[Node, str, Primitive]:
    """Returns the node of that index, and name and row of the primitive that it was checked by."""
    match = _NODE.fullmatch(text)
    if match is None:
        raise UserError(f"{shorten(text.strip())} is not a node: write it like n4 = mul(x, v1)")
    name, primitive, inputs = match.groups()
    if name != node_name(index):
        raise UserError(
            f"{_brief(text)}: the nodes are numbered in order, so this is {node_name(index)}"
        )
    node = Node(primitive, tuple(_node_index(text, part.strip()) for part in inputs.split(",")))
    _check_node(index, node)
    return node, node.primitive, PRIMITIVES[node.primitive]


def _node_index(text: str, name: str) -> int:
    if name in INITIAL_NODES:
        return INITIAL_NODES.index(name)
    if re.fullmatch(r"n\d{1,9}", name):
        return int(name[1:])
    raise UserError(
        f"{_brief(text)}: there is no node {shorten(name)}; nodes are x, 0, v0, v1 and n4, n5, ..."
    )


def _brief(text: str) -> str:
    """Returns the text of a node as a message shows it."""
    return shorten(text.strip()).strip("'")


def _node_text(index: int, node: Node) -> str:
    inputs = ", ".join(map(node_name, node.inputs))
    return f"{node_name(index)} = {node.primitive}({inputs})"


def _check_node(index: int, node: Node) -> None:
    primitive = PRIMITIVES.get(node.primitive)
    if primitive is None:
        hint = did_you_mean(node.primitive, PRIMITIVES)
        known = ", ".join(PRIMITIVES)
        raise UserError(
            f"{_node_text(index, node)}: unknown primitive {node.primitive!r}.{hint} Known: {known}"
        )
    if len(node.inputs) != primitive.arity:
        raise UserError(
            f"{_node_text(index, node)}: {node.primitive} takes {primitive.arity} "
            f"input{'s' if primitive.arity > 1 else ''}, not {len(node.inputs)}"
        )
    # In an order of the nodes that has no such reference there is no cycle either.
    later = [i for i in node.inputs if not 0 <= i < index]
    if later:
        raise UserError(
            f"{_node_text(index, node)}: a node takes initial nodes (x, 0, v0, v1) and nodes "
            f"before it, and {'itself' if later[0] == index else node_name(later[0])} is none "
            "of them; order the nodes so that no reference looks ahead (in a cycle one always does)"
        )
