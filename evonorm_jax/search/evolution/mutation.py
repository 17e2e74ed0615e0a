"""The paper's mutation (section 3): one node is drawn anew.

>>> import numpy as np
>>> from evonorm_jax.search.evolution.space import SearchSpace, random_graph
>>> rng = np.random.default_rng(0)
>>> parent = random_graph(rng)
>>> child = mutate(parent, rng)
>>> sum(a != b for a, b in zip(parent.nodes, child.nodes, strict=True))
1
"""

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import INITIAL_NODES, Graph
from evonorm_jax.search.evolution.space import SearchSpace, random_node


def mutate(graph: Graph, rng: np.random.Generator, space: SearchSpace | None = None) -> Graph:
    """Draws a child of the graph in the space.

    An intermediate node is picked uniformly, its primitive replaced by one drawn uniformly from
    the space, and its inputs by nodes drawn uniformly from those before it. A child outside the
    space (a moment over the batch in the S series) is drawn again.

    The child may be the same layer, where the node was unused, and even the same graph.

    Raises:
      UserError: The graph has another number of nodes than the graphs of the space.
    """
    space = space or SearchSpace(num_nodes=len(graph.nodes))
    if len(graph.nodes) != space.num_nodes:
        raise UserError(
            f"a graph of {len(graph.nodes)} nodes has no child in a space of "
            f"num_nodes={space.num_nodes}; pad_graph adds unused nodes"
        )
    while True:
        index = int(rng.integers(len(graph.nodes)))
        nodes = list(graph.nodes)
        nodes[index] = random_node(rng, len(INITIAL_NODES) + index, space)
        child = Graph(tuple(nodes))
        if space.contains(child):
            return child


def mutate_layer(graph: Graph, rng: np.random.Generator, space: SearchSpace | None = None) -> Graph:
    """Draws a child that is another layer: mutates until the canonical form changes.

    The neutral mutations on the way are kept, so unused nodes drift as in the paper's search,
    which spends an evaluation on each of them.
    """
    space = space or SearchSpace(num_nodes=len(graph.nodes))
    child = graph
    # Ends: one mutation in `num_nodes` redraws the output itself.
    while canonical(child) == canonical(graph):
        child = mutate(child, rng, space)
    return child
