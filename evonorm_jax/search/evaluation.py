"""What a graph computes, as a pure function of arrays.

Every reduction comes from `evonorm_jax/layers/moments.py`. A statistic stays as small as its index
set leaves it (`[N, 1, 1, C]`, say) until it meets something larger: the paper's broadcast back to
the input shape costs nothing and changes nothing.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.layers import moments
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.primitives import Primitive

#: In the divisor, y + eps sign(y). The paper's value is not known and the authors' code of the
#: found layers divides without one, so ours vanishes beside any |y| > 2e-5 in float32, yet keeps
#: the quotient and its derivative finite for every other y but 0.
DIVISION_EPSILON = 1e-12

#: The statistic behind an aggregation: what is averaged over the batches, before the root.
STATISTICS: Mapping[str, str] = MappingProxyType(
    {"mean": "mean", "std": "var", "rms": "mean_square"}
)

#: Takes the index of a node, the name of a statistic (a value of `STATISTICS`) and the tensor
#: `[N, h, w, C]` (h and w those of the image or 1); returns the statistic over the batch.
BatchStatistic = Callable[[int, str, jax.Array], jax.Array]


def signed_sqrt(x: jax.Array) -> jax.Array:
    """`sign(x) sqrt(|x|)`, its derivative at 0 taken as 0.

    The derivative is infinite there; in `sqrt(max(x, 0))`, which is constant for x < 0, infinity
    times 0 would make NaN of it.
    """
    zero = x == 0
    return jnp.where(zero, 0, jnp.sign(x) * jnp.sqrt(jnp.abs(jnp.where(zero, 1, x))))


_ELEMENTWISE: Mapping[str, Callable[..., jax.Array]] = MappingProxyType(
    {
        "add": jnp.add,
        "mul": jnp.multiply,
        "max": jnp.maximum,
        "neg": jnp.negative,
        "sigmoid": nn.sigmoid,
        "tanh": jnp.tanh,
        "exp": jnp.exp,
        "abs": jnp.abs,
        "square": jnp.square,
        "sqrt": signed_sqrt,
    }
)


def batch_statistic(index: int, statistic: str, x: jax.Array) -> jax.Array:
    """The statistic of the batch at hand, as in training on one device."""
    del index
    return reduce_batch(statistic, x)


def reduce_batch(statistic: str, x: jax.Array, **pooling: object) -> jax.Array:
    """A statistic over (b, w, h) by name; `pooling` as in `moments.batch_moments`."""
    if statistic == "mean_square":
        return moments.batch_mean_square(x, **pooling)  # type: ignore[arg-type]
    batch = moments.batch_moments(x, **pooling)  # type: ignore[arg-type]
    return batch.mean if statistic == "mean" else batch.var


def evaluate(
    graph: Graph,
    x: jax.Array,
    v0: jax.Array,
    v1: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    division_epsilon: float = DIVISION_EPSILON,
    batch: BatchStatistic = batch_statistic,
) -> jax.Array:
    """The output of a graph, without the affine map that follows it in a layer.

    Args:
      graph: any; evaluated as it is, so give its canonical form.
      x: `[N, H, W, C]`, float32 or float64, in which everything is computed.
      v0: `(C,)`.
      v1: `(C,)`.
      num_groups: of the index set (w, h, c/g); divides C.
      epsilon: in the roots of the aggregations and in the logarithm.
      division_epsilon: in the divisor.
      batch: where the statistics over the batch come from.

    Returns:
      `[N, H, W, C]`.
    """

    def apply(index: int, primitive: Primitive, inputs: list[jax.Array]) -> jax.Array:
        if primitive.moment is not None:
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
    epsilon: float = 1e-5,
    division_epsilon: float = DIVISION_EPSILON,
    batch: Callable[[str, jax.Array], jax.Array],
) -> jax.Array:
    """One node.

    Args:
      primitive: what it applies.
      inputs: as many as it takes, of shapes that broadcast against each other; the input of an
        aggregation has all examples and all channels.
      num_groups: as in `evaluate`, like both epsilons.
      epsilon: see there.
      division_epsilon: see there.
      batch: takes the name of a statistic and the input; returns it over the batch.
    """
    if primitive.name == "div":
        return inputs[0] / (inputs[1] + division_epsilon * jnp.sign(inputs[1]))
    if primitive.name == "log":
        return jnp.sign(inputs[0]) * jnp.log(jnp.abs(inputs[0]) + epsilon)
    if primitive.moment is None:
        return _ELEMENTWISE[primitive.name](*inputs)
    statistic = STATISTICS[primitive.moment]
    if primitive.batch_dependent:
        result = batch(statistic, inputs[0])
    else:
        result = _reduce_example(str(primitive.index_set), statistic, inputs[0], num_groups)
    return result if statistic == "mean" else jnp.sqrt(result + epsilon)


def _with_channels(value: jax.Array, x: jax.Array) -> jax.Array:
    """The value over all examples and channels: what reductions over either must count."""
    _, height, width, _ = value.shape
    return jnp.broadcast_to(value, (x.shape[0], height, width, x.shape[-1]))


def _reduce_example(index_set: str, statistic: str, x: jax.Array, num_groups: int) -> jax.Array:
    """A statistic within each example."""
    if statistic == "mean_square":
        if index_set == "wh":
            return moments.instance_mean_square(x)
        if index_set == "whc":
            return moments.layer_mean_square(x)
        return moments.group_mean_square(x, num_groups)
    if index_set == "wh":
        example = moments.instance_moments(x)
    elif index_set == "whc":
        example = moments.layer_moments(x)
    else:
        example = moments.group_moments(x, num_groups)
    return example.mean if statistic == "mean" else example.var
