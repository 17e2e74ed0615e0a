"""A graph as the definition of a layer, in four classes by what its moments are taken over.

    y = graph(x) * scale + bias

Every custom layer of the paper is followed by a channel-wise affine map (its Figure 5); with
`nonlinearity=False` the layer is that map alone, as EvoNorm is.
"""

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.nn import initializers

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import INITIAL_NODES, V0, V1, Graph, check_depends_on_x
from evonorm_jax.graphs.primitives import DIVISION_EPSILON, PRIMITIVES
from evonorm_jax.graphs.reductions import reduce_batch
from evonorm_jax.graphs.values import evaluate
from evonorm_jax.kernels.pooling import over_examples
from evonorm_jax.layers.definitions.base import (
    Arrays,
    BatchDependentLayer,
    BatchStatistics,
    GroupLayer,
    LayerDefinition,
    Parameter,
    definition,
)

_Layer = TypeVar("_Layer")


@definition
class GraphLayer(LayerDefinition):
    """A searched layer that looks at single examples and has no groups.

    Attributes:
      graph: The graph; it is evaluated in its canonical form.
      division_epsilon: The epsilon in the divisor, `x / (y + eps sign(y))`; see
        `primitives.DIVISION_EPSILON`.
      v0_init: Initializer of the parameter `v0`, `(C,)`, which a layer has if its graph uses it.
      v1_init: Initializer of the parameter `v1`, likewise.
    """

    graph: Graph
    division_epsilon: float = DIVISION_EPSILON
    v0_init: Initializer = initializers.zeros
    v1_init: Initializer = initializers.ones

    fuses_activation: ClassVar[bool] = True

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        used = canonical(self.graph).effective
        vectors = {"v0": (V0, self.v0_init), "v1": (V1, self.v1_init)}
        return {
            name: Parameter(init, (num_channels,))
            for name, (index, init) in vectors.items()
            if index in used
        }

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        unused = jnp.zeros(x.shape[-1], x.dtype)
        return evaluate(
            canonical(self.graph),
            x,
            params.get("v0", unused),
            params.get("v1", unused),
            num_groups=self._resolve_num_groups(x.shape[-1]),
            epsilon=self.epsilon,
            division_epsilon=self.division_epsilon,
            batch=functools.partial(self._batch_statistic, statistics),
        )

    def _check_fields(self, num_channels: int) -> None:
        super()._check_fields(num_channels)
        if self.division_epsilon < 0:
            raise UserError(
                f"{type(self).__name__}: division_epsilon={self.division_epsilon} must not be "
                f"negative, e.g. {DIVISION_EPSILON}"
            )

    def _resolve_num_groups(self, num_channels: int) -> int:
        """Returns 1: a graph of this class has no moments over groups."""
        del num_channels
        return 1

    def _batch_statistic(
        self, statistics: BatchStatistics, index: int, kind: str, value: jax.Array
    ) -> jax.Array:
        """Returns a statistic of a node over the batch; graphs without batch moments have none."""
        raise NotImplementedError


@definition
class GroupGraphLayer(GroupLayer, GraphLayer):
    """A searched layer with statistics of groups of channels."""


@definition
class BatchGraphLayer(GraphLayer, BatchDependentLayer):
    """A searched layer with statistics over the batch.

    It keeps one running statistic of shape `(C,)` for each such node of the canonical graph:
    `mean_n4`, `var_n7` or `mean_square_n5`; roots are taken of the averages, as in EvoNorm-B0.
    """

    def _running_statistics(self) -> dict[str, str]:
        return {} if self._is_affine else running_statistics(canonical(self.graph))

    def _batch_statistic(
        self, statistics: BatchStatistics, index: int, kind: str, value: jax.Array
    ) -> jax.Array:
        """Returns the statistic of the batch or the running one, broadcasting against `value`."""
        name = statistic_name(index, kind)
        if statistics.running is not None:
            return statistics.running[name].astype(value.dtype).reshape(1, 1, 1, -1)
        batch = reduce_batch(kind, value, **statistics.pooling)
        statistics.batch[name] = jnp.mean(batch, axis=(0, 1, 2))
        return over_examples(batch, value.shape[0])


@definition
class BatchGroupGraphLayer(GroupLayer, BatchGraphLayer):
    """A searched layer with statistics over the batch and of groups of channels."""


def running_statistics(graph: Graph) -> dict[str, str]:
    """Returns the kind of each running statistic of a canonical graph, by name.

    >>> running_statistics(Graph.from_text("n4 = std_bwh(x); n5 = div(x, n4)"))
    {'var_n4': 'var'}
    """
    return {
        statistic_name(index, kind): kind
        for index, node in enumerate(graph.nodes, start=len(INITIAL_NODES))
        if PRIMITIVES[node.primitive].batch_dependent
        and (kind := PRIMITIVES[node.primitive].statistic) is not None
    }


def statistic_name(index: int, kind: str) -> str:
    """Returns the name of the running statistic of a node."""
    return f"{kind}_n{index}"


def graph_layer_of(
    graph: Graph, classes: Mapping[tuple[bool, bool], Callable[..., _Layer]]
) -> functools.partial[_Layer]:
    """Returns the factory of a graph's layer, of the class that has just the fields it needs.

    Args:
      graph: The graph.
      classes: The class of layers with and without statistics over the batch (the first of the
        key) and of groups (the second).

    Raises:
      UserError: No path leads from x to the output.
    """
    check_depends_on_x(graph)
    used = graph.primitives()
    by_batch = any(primitive.batch_dependent for primitive in used)
    by_group = any(primitive.index_set == "whcg" for primitive in used)
    return functools.partial(classes[by_batch, by_group], graph=graph)
