"""A graph as an NNX module: what `evonorm_jax.nnx.norm_act("graph:...")` returns."""

import functools

from evonorm_jax.graphs import definitions
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.nnx.base import NormActLayer


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
