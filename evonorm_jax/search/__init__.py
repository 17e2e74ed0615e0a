"""The layer search: from 24 primitives to a layer that trains by its name.

`primitives`, `graph`, `space`, `canonical`, `mutation` are the space and what moves in it; `layer`
makes a Flax layer of a graph, `library` holds the known ones, `formula` and `drawing` show them.
"""

from evonorm_jax.search.canonical import canonical, canonical_hash
from evonorm_jax.search.graph import Graph, Node
from evonorm_jax.search.library import LIBRARY, read_graph
from evonorm_jax.search.mutation import mutate, mutate_layer
from evonorm_jax.search.primitives import PRIMITIVES, Primitive
from evonorm_jax.search.space import SearchSpace, pad_graph, random_graph

__all__ = [
    "LIBRARY",
    "PRIMITIVES",
    "Graph",
    "Node",
    "Primitive",
    "SearchSpace",
    "canonical",
    "canonical_hash",
    "mutate",
    "mutate_layer",
    "pad_graph",
    "random_graph",
    "read_graph",
]
