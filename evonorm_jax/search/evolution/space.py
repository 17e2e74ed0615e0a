"""The search space: which graphs a search may propose, and random ones (paper, section 2).

>>> import numpy as np
>>> space = SearchSpace(batch_moments=False)
>>> graph = random_graph(np.random.default_rng(0), space)
>>> len(graph.nodes), any(primitive.batch_dependent for primitive in graph.primitives())
(10, False)
"""

import dataclasses
import functools

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import check_fields, flag, whole
from evonorm_jax.graphs.graph import INITIAL_NODES, MAX_NODES, Graph, Node, check_depends_on_x
from evonorm_jax.graphs.primitives import PRIMITIVES

#: The rules of the fields of a space; the last node is the output, so there is at least one.
FIELDS = {"num_nodes": whole(1, MAX_NODES), "batch_moments": flag(), "whole_graph": flag()}


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The graphs that a search may propose.

    Attributes:
      num_nodes: The number of intermediate nodes of a graph. Ten and the four initial ones are the
        14 boxes of the paper's figure of EvoNorm-B0.
      batch_moments: Whether the output may depend on moments over the batch: True for the B
        series, False for the S series.
      whole_graph: Whether the S series keeps batch moments out of the unused nodes as well. The
        paper's figure of EvoNorm-S0 shows one there, so only the nodes that the output depends on
        count by default. True draws from 21 primitives instead of 24.
    """

    num_nodes: int = 10
    batch_moments: bool = True
    whole_graph: bool = False

    def __post_init__(self) -> None:
        check_fields(vars(self), FIELDS, "space")

    @functools.cached_property
    def primitives(self) -> tuple[str, ...]:
        """The names of the primitives that nodes are drawn from."""
        drop_batch = self.whole_graph and not self.batch_moments
        return tuple(
            name
            for name, primitive in PRIMITIVES.items()
            if not (drop_batch and primitive.batch_dependent)
        )

    def contains(self, graph: Graph) -> bool:
        """Tells whether the search may propose the graph."""
        return len(graph.nodes) == self.num_nodes and self._batch_node(graph) is None

    def check_layer(self, graph: Graph) -> None:
        """Refuses a graph that is no layer of this space, however many nodes it has.

        Raises:
          UserError: The output does not depend on x, or it depends on a moment over the
            batch and this is an S space.
        """
        check_depends_on_x(graph)
        if (name := self._batch_node(graph)) is not None:
            where = "" if self.whole_graph else "effective "
            raise UserError(
                f"{name} is a moment over the batch, and the {where}graph of an S layer holds "
                f"none: {graph}. Use a space with batch_moments=True, or another index set"
            )

    def _batch_node(self, graph: Graph) -> str | None:
        if self.batch_moments:
            return None
        used = graph.primitives(effective=not self.whole_graph)
        return next((primitive.name for primitive in used if primitive.batch_dependent), None)


def random_node(rng: np.random.Generator, index: int, space: SearchSpace) -> Node:
    """Draws a primitive and as many earlier nodes as it takes, all uniformly."""
    primitive = space.primitives[rng.integers(len(space.primitives))]
    inputs = rng.integers(index, size=PRIMITIVES[primitive].arity)
    return Node(primitive, tuple(map(int, inputs)))


def random_graph(rng: np.random.Generator, space: SearchSpace | None = None) -> Graph:
    """Draws a graph of the space node by node (paper, section 3); its output often ignores x.

    In an S space, whole graphs are drawn until one is inside.
    """
    space = space or SearchSpace()
    first = len(INITIAL_NODES)
    while True:
        graph = Graph(tuple(random_node(rng, first + i, space) for i in range(space.num_nodes)))
        if space.contains(graph):
            return graph


def pad_graph(graph: Graph, rng: np.random.Generator, space: SearchSpace | None = None) -> Graph:
    """Adds random unused nodes before those of a layer: it then has as many as the space asks for.

    Raises:
      UserError: The graph has more nodes than that, or is no layer of the space.
    """
    space = space or SearchSpace()
    space.check_layer(graph)
    missing = space.num_nodes - len(graph.nodes)
    if missing < 0:
        raise UserError(
            f"a graph of {len(graph.nodes)} nodes does not fit a space of "
            f"num_nodes={space.num_nodes}: {graph}"
        )
    first = len(INITIAL_NODES)
    padding = [random_node(rng, first + i, space) for i in range(missing)]
    moved = [
        Node(node.primitive, tuple(i if i < first else i + missing for i in node.inputs))
        for node in graph.nodes
    ]
    return Graph((*padding, *moved))
