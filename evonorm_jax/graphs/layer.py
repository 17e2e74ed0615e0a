"""A graph as a norm-activation layer: what `norm_act("graph:...")` returns.

    y = graph(x) * scale + bias

Every custom layer of the paper is followed by a channel-wise affine map (its Figure 5); with
`nonlinearity=False` the layer is that map alone, as EvoNorm is. A graph is given as a file, as the
name of one in `library.py`, or as its text:

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
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import V0, V1, Graph, check_depends_on_x
from evonorm_jax.graphs.primitives import DIVISION_EPSILON
from evonorm_jax.graphs.reductions import reduce_batch
from evonorm_jax.graphs.values import evaluate
from evonorm_jax.kernels.pooling import over_examples
from evonorm_jax.layers.base import (
    INITIAL_STATISTIC,
    BatchDependentLayer,
    GroupLayer,
    NormActLayer,
)


class GraphLayer(NormActLayer, kw_only=True):
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
    v0_init: Initializer = nn.initializers.zeros
    v1_init: Initializer = nn.initializers.ones

    fuses_activation: ClassVar[bool] = True

    def normalize(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
        """Computes the graph; see `NormActLayer.normalize`."""
        if self.division_epsilon < 0:
            raise UserError(
                f"{type(self).__name__}: division_epsilon={self.division_epsilon} must not be "
                f"negative, e.g. {DIVISION_EPSILON}"
            )
        graph = canonical(self.graph)

        def vector(index: int, name: str, init: Initializer) -> jax.Array:
            if index in graph.effective:
                return self.channel_param(name, init, x)
            return jnp.zeros(x.shape[-1], x.dtype)

        def batch(index: int, statistic: str, value: jax.Array) -> jax.Array:
            return self.batch_statistic(
                f"{statistic}_n{index}", statistic, value, use_running_average
            )

        return evaluate(
            graph,
            x,
            vector(V0, "v0", self.v0_init),
            vector(V1, "v1", self.v1_init),
            num_groups=self.resolve_num_groups(x),
            epsilon=self.epsilon,
            division_epsilon=self.division_epsilon,
            batch=batch,
        )

    def resolve_num_groups(self, x: jax.Array) -> int:
        """Returns 1: a graph of this class has no moments over groups."""
        del x
        return 1

    def batch_statistic(
        self, name: str, statistic: str, value: jax.Array, use_running_average: bool
    ) -> jax.Array:
        """Returns a statistic of a node over the batch; graphs without batch moments have none."""
        raise NotImplementedError


class GroupGraphLayer(GroupLayer, GraphLayer, kw_only=True):
    """A searched layer with statistics of groups of channels."""


class BatchGraphLayer(GraphLayer, BatchDependentLayer, kw_only=True):
    """A searched layer with statistics over the batch.

    `batch_stats` holds one entry of shape `(C,)` for each such node of the canonical graph:
    `mean_n4`, `var_n7` or `mean_square_n5`; roots are taken of the averages, as in EvoNorm-B0.
    """

    def batch_statistics(self, x: jax.Array, use_running_average: bool | None) -> dict[str, Any]:
        """Returns the mode, for `normalize`: the statistics are those of nodes, not of x."""
        self._running_statistics(x)  # none for x itself: checks the fields
        use_running_average = self._merge(use_running_average)
        if not use_running_average:
            self._check_mutable()
        return {"use_running_average": use_running_average}

    def batch_statistic(
        self, name: str, statistic: str, value: jax.Array, use_running_average: bool
    ) -> jax.Array:
        """Returns the statistic of the batch or the running one, broadcasting against `value`."""
        running = self.variable(
            "batch_stats", name, INITIAL_STATISTIC[statistic], value.shape[-1:], jnp.float32
        )
        if use_running_average:
            return running.value.astype(value.dtype).reshape(1, 1, 1, -1)
        batch = reduce_batch(statistic, value, **self._pooling())
        self._track({name: running}, {name: jnp.mean(batch, axis=(0, 1, 2))})
        return over_examples(batch, value.shape[0])


class BatchGroupGraphLayer(GroupLayer, BatchGraphLayer, kw_only=True):
    """A searched layer with statistics over the batch and of groups of channels."""


_CLASSES: dict[tuple[bool, bool], type[GraphLayer]] = {
    (False, False): GraphLayer,
    (False, True): GroupGraphLayer,
    (True, False): BatchGraphLayer,
    (True, True): BatchGroupGraphLayer,
}


def graph_layer(graph: Graph) -> functools.partial:
    """Returns the factory of a graph's layer, of the class that has just the fields it needs.

    Raises:
      UserError: No path leads from x to the output.
    """
    check_depends_on_x(graph)
    used = graph.primitives()
    by_batch = any(primitive.batch_dependent for primitive in used)
    by_group = any(primitive.index_set == "whcg" for primitive in used)
    return functools.partial(_CLASSES[by_batch, by_group], graph=graph)
