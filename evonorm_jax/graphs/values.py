"""What a graph computes, as a pure function of arrays, in JAX and in NumPy.

In JAX a statistic stays as small as its index set leaves it (`[N, 1, 1, C]`, say) until it meets
something larger: the paper's broadcast back to the input shape costs nothing and changes nothing.

NumPy serves the filters of the search, which look at thousands of graphs at once. A few thousand
values take NumPy a millisecond, where JAX would dispatch a hundred operations or compile for
seconds, and float64, which the functional hash needs, would be a global switch there. The tests
compare the two for every primitive.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.primitives import DIVISION_EPSILON, EPSILON, Primitive
from evonorm_jax.graphs.reductions import reduce_batch, reduce_batch_numpy

#: Takes the index of a node, the name of a statistic and the tensor `[N, h, w, C]`, with h and w
#: those of the image or 1; returns the statistic over the batch.
BatchStatistic = Callable[[int, str, jax.Array], jax.Array]


def batch_statistic(index: int, statistic: str, x: jax.Array) -> jax.Array:
    """Computes the statistic of the batch at hand, as in training on one device."""
    del index
    return reduce_batch(statistic, x)


def evaluate(
    graph: Graph,
    x: jax.Array,
    v0: jax.Array,
    v1: jax.Array,
    *,
    num_groups: int,
    epsilon: float = EPSILON,
    division_epsilon: float = DIVISION_EPSILON,
    batch: BatchStatistic = batch_statistic,
) -> jax.Array:
    """Computes the output of a graph, without the affine map that follows it in a layer.

    Args:
      graph: The graph. It is evaluated as it is, so the canonical form takes least time.
      x: `[N, H, W, C]`, float32 or float64; everything is computed in its dtype.
      v0: The first trainable vector, `(C,)`.
      v1: The second trainable vector, `(C,)`.
      num_groups: The number of groups of the index set (w, h, c/g); it divides C.
      epsilon: The epsilon in the roots of the aggregations and in the logarithm.
      division_epsilon: The epsilon in the divisor.
      batch: Where the statistics over the batch come from.

    Returns:
      `[N, H, W, C]`.
    """

    def apply(index: int, primitive: Primitive, inputs: list[jax.Array]) -> jax.Array:
        if primitive.index_set is not None:
            inputs = [_with_channels(inputs[0], x)]
        return apply_primitive(
            primitive,
            inputs,
            num_groups=num_groups,
            epsilon=epsilon,
            division_epsilon=division_epsilon,
            batch=functools.partial(batch, index),
        )

    channels = (1, 1, 1, x.shape[-1])
    zero = jnp.zeros((1, 1, 1, 1), x.dtype)
    vectors = [v.astype(x.dtype).reshape(channels) for v in (v0, v1)]
    return jnp.broadcast_to(graph.fold([x, zero, *vectors], apply), x.shape)


def apply_primitive(
    primitive: Primitive,
    inputs: Sequence[jax.Array],
    *,
    num_groups: int,
    epsilon: float = EPSILON,
    division_epsilon: float = DIVISION_EPSILON,
    batch: Callable[[str, jax.Array], jax.Array],
) -> jax.Array:
    """Computes the value of one node.

    Args:
      primitive: The primitive of the node.
      inputs: As many arrays as it takes, of shapes that broadcast against each other. The input of
        an aggregation has all examples and all channels.
      num_groups: As in `evaluate`.
      epsilon: As in `evaluate`.
      division_epsilon: As in `evaluate`.
      batch: Takes the name of a statistic and the input; returns the statistic over the batch.
    """
    options = {
        "num_groups": num_groups,
        "epsilon": epsilon,
        "division_epsilon": division_epsilon,
        "batch": batch,
    }
    return primitive.jax_function(*inputs, **{name: options[name] for name in primitive.options})


def _with_channels(value: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcasts over all examples and channels, which reductions over either must count."""
    _, height, width, _ = value.shape
    return jnp.broadcast_to(value, (x.shape[0], height, width, x.shape[-1]))


def evaluate_numpy(
    graph: Graph,
    x: np.ndarray,
    v0: np.ndarray,
    v1: np.ndarray,
    *,
    num_groups: int,
    epsilon: float = EPSILON,
    division_epsilon: float = DIVISION_EPSILON,
) -> np.ndarray:
    """Computes the output of a graph in training, in NumPy and float64.

    Args:
      graph: The graph.
      x: `[N, H, W, C]`, float64.
      v0: The first trainable vector, `(C,)`.
      v1: The second trainable vector, `(C,)`.
      num_groups: The number of groups of the index set (w, h, c/g); it divides C.
      epsilon: As in `evaluate`.
      division_epsilon: As in `evaluate`.

    Returns:
      `[N, H, W, C]`. Values that are not finite are left in it.
    """
    size, *_, channels = x.shape
    options = {
        "num_groups": num_groups,
        "epsilon": epsilon,
        "division_epsilon": division_epsilon,
        "batch": reduce_batch_numpy,
    }

    def apply(index: int, primitive: Primitive, inputs: list[np.ndarray]) -> np.ndarray:
        del index
        if primitive.index_set is not None:
            _, height, width, _ = inputs[0].shape
            inputs = [np.broadcast_to(inputs[0], (size, height, width, channels))]
        given = {name: options[name] for name in primitive.options}
        return primitive.numpy_function(*inputs, **given)

    zero = np.zeros((1, 1, 1, 1))
    vectors = [v.reshape(1, 1, 1, channels) for v in (v0, v1)]
    with np.errstate(all="ignore"):
        return np.broadcast_to(graph.fold([x, zero, *vectors], apply), x.shape)
