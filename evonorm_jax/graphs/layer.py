"""A graph as a Linen module: what `norm_act("graph:...")` returns.

`definitions.py` has what it computes. A graph is given as a file, as the name of one in
`library.py`, or as its text:

>>> import jax
>>> from evonorm_jax import norm_act
>>> layer = norm_act("graph:n4 = sigmoid(x); n5 = mul(x, n4)")()
>>> norm_act("graph:gn_relu", group_size=8).keywords["group_size"]
8
>>> x = jax.numpy.ones((1, 2, 2, 3))
>>> variables = layer.init(jax.random.key(0), x)
>>> sorted(variables["params"]), round(float(layer.apply(variables, x)[0, 0, 0, 0]), 4)
(['bias', 'scale'], 0.7311)
"""

import functools

from evonorm_jax.graphs import definitions
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.layers.base import NormActLayer


class GraphLayer(definitions.GraphLayer, NormActLayer): ...


class GroupGraphLayer(definitions.GroupGraphLayer, NormActLayer): ...


class BatchGraphLayer(definitions.BatchGraphLayer, NormActLayer): ...


class BatchGroupGraphLayer(definitions.BatchGroupGraphLayer, NormActLayer): ...


_CLASSES: dict[tuple[bool, bool], type[NormActLayer]] = {
    (False, False): GraphLayer,
    (False, True): GroupGraphLayer,
    (True, False): BatchGraphLayer,
    (True, True): BatchGroupGraphLayer,
}


def graph_layer(graph: Graph) -> functools.partial[NormActLayer]:
    """Returns the factory of a graph's layer, of the class that has just the fields it needs.

    Raises:
      UserError: No path leads from x to the output.
    """
    return definitions.graph_layer_of(graph, _CLASSES)
