"""A norm-activation layer as a graph of primitives: what it computes, how it is written and drawn.

* `primitives.py`: the table of primitives; a new one is one row there.
* `notation.py`: how a formula writes a primitive.
* `reductions.py`: the moments over each index set, in JAX and in NumPy.
* `graph.py`: `Graph`, its text and its file.
* `canonical.py`: one form and one hash for all graphs that are the same program.
* `values.py`: what a graph computes, in JAX and in NumPy.
* `nodewise.py`: the same node by node, forward and backward, without compiling the graph.
* `library.py`: known layers as graphs.
* `sources.py`: what may follow `graph:` in the name of a layer.
* `formula.py`, `drawing.py`: a graph for people.
* `definitions.py`: a graph as the definition of a layer.
* `layer.py`: a graph as a Linen module.
"""

from evonorm_jax.graphs.canonical import canonical, canonical_hash
from evonorm_jax.graphs.formula import formula
from evonorm_jax.graphs.graph import Graph, Node
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.graphs.primitives import PRIMITIVES, Primitive
from evonorm_jax.graphs.sources import read_graph

__all__ = [
    "LIBRARY",
    "PRIMITIVES",
    "Graph",
    "Node",
    "Primitive",
    "canonical",
    "canonical_hash",
    "formula",
    "read_graph",
]
