"""Every reduction of the layers, in float32 at least.

Each statistic of an image tensor `[N, H, W, C]` starts from one reduction, over the height and
width of a single map; the maps are then pooled over a group, a layer, the batch or the devices by
the law of total variance,

    mean = E[mean_i]        var = E[var_i + (mean_i - mean)^2]

The reason is speed and accuracy at once. Reducing over height and width keeps the channels, the
minor axis, whole: on XLA:CPU that is 14 times faster than a reduction over a split channel axis.
And the variance of the values about their own mean (two passes) cannot turn negative, while
`E[x^2] - E[x]^2` did so in 11 of 32 channels at mean 1000 and standard deviation 0.1.

All variances are biased (divided by the number of values): one value has variance 0, never NaN.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.errors import UserError

#: Groups of the authors' code; "c/g" in the paper.
DEFAULT_NUM_GROUPS = 32

_logger = logging.getLogger(__name__)


class Moments(NamedTuple):
    """Mean and biased, centred variance; both broadcast against `[N, H, W, C]`."""

    mean: jax.Array
    var: jax.Array


def upcast(x: jax.Array) -> jax.Array:
    """`x` in float32, or as it is if wider. Squares of float16 overflow above 255."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def instance_moments(x: jax.Array) -> Moments:
    """Moments of each map, over (w, h): `[N, 1, 1, C]`."""
    x = upcast(x)
    mean = jnp.mean(x, axis=(1, 2), keepdims=True)
    return Moments(mean, jnp.mean(jnp.square(x - mean), axis=(1, 2), keepdims=True))


def instance_mean_square(x: jax.Array) -> jax.Array:
    """Uncentred second moment of each map, over (w, h): `[N, 1, 1, C]`."""
    return jnp.mean(jnp.square(upcast(x)), axis=(1, 2), keepdims=True)


def layer_moments(x: jax.Array) -> Moments:
    """Moments of each example, over (w, h, c): `[N, 1, 1, 1]`."""
    return _pool(instance_moments(x), functools.partial(jnp.mean, axis=-1, keepdims=True))


def layer_mean_square(x: jax.Array) -> jax.Array:
    """Uncentred second moment of each example, over (w, h, c): `[N, 1, 1, 1]`."""
    return jnp.mean(instance_mean_square(x), axis=-1, keepdims=True)


def group_moments(x: jax.Array, num_groups: int) -> Moments:
    """Moments of each group of neighbouring channels, over (w, h, c/g): `[N, 1, 1, C]`."""
    return _pool(
        instance_moments(x), functools.partial(_average_over_groups, num_groups=num_groups)
    )


def group_mean_square(x: jax.Array, num_groups: int) -> jax.Array:
    """Uncentred second moment of each group, over (w, h, c/g): `[N, 1, 1, C]`."""
    return _average_over_groups(instance_mean_square(x), num_groups=num_groups)


def pixel_mean_square(x: jax.Array) -> jax.Array:
    """Uncentred second moment of each pixel, over c: `[N, H, W, 1]`."""
    return jnp.mean(jnp.square(upcast(x)), axis=-1, keepdims=True)


def batch_moments(
    x: jax.Array,
    *,
    virtual_batch_size: int | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Moments:
    """Moments of each channel, over (b, w, h): `[V, 1, 1, C]`, V virtual batches.

    Args:
      x: `[N, H, W, C]`.
      virtual_batch_size: how many consecutive examples share their statistics; None means all
        (V = 1). `over_examples` lays the V statistics out over the examples again.
      axis_name: name of a `pmap` or `shard_map` axis whose devices pool their statistics.
      axis_index_groups: which devices of that axis pool with one another; None means all.

    Raises:
      UserError: `virtual_batch_size` does not divide N, or the arguments exclude one another.
    """
    check_statistics_batch(virtual_batch_size, axis_name, axis_index_groups)
    maps = Moments(*(_split_batch(moment, virtual_batch_size) for moment in instance_moments(x)))
    moments = _pool(maps, functools.partial(jnp.mean, axis=1, keepdims=True))
    moments = Moments(*(jnp.squeeze(moment, axis=1) for moment in moments))
    if axis_name is None:
        return moments
    return _pool(
        moments,
        functools.partial(lax.pmean, axis_name=axis_name, axis_index_groups=axis_index_groups),
    )


def batch_mean_square(
    x: jax.Array,
    *,
    virtual_batch_size: int | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> jax.Array:
    """Uncentred second moment of each channel, over (b, w, h); arguments of `batch_moments`."""
    check_statistics_batch(virtual_batch_size, axis_name, axis_index_groups)
    mean_square = jnp.mean(_split_batch(instance_mean_square(x), virtual_batch_size), axis=1)
    if axis_name is None:
        return mean_square
    return lax.pmean(mean_square, axis_name, axis_index_groups=axis_index_groups)


def over_examples(statistic: jax.Array, batch_size: int) -> jax.Array:
    """`[V, 1, 1, C]` laid out so that it broadcasts against `[N, H, W, C]`, N = `batch_size`."""
    num_virtual, *rest = statistic.shape
    if num_virtual == 1:
        return statistic
    expanded = (num_virtual, batch_size // num_virtual, *rest)
    return jnp.broadcast_to(statistic[:, None], expanded).reshape(batch_size, *rest)


def check_statistics_batch(
    virtual_batch_size: int | None,
    axis_name: str | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
) -> None:
    """Raises `UserError` if the three ways to choose the statistics batch contradict."""
    if virtual_batch_size is not None and axis_name is not None:
        raise UserError(
            f"virtual_batch_size={virtual_batch_size} splits the batch of a device and "
            f"axis_name={axis_name!r} joins the batches of several devices: give one of the two"
        )
    if axis_index_groups is not None and axis_name is None:
        raise UserError(
            f"axis_index_groups={axis_index_groups} says which devices of an axis pool their "
            "statistics, so it needs axis_name as well"
        )
    if virtual_batch_size is not None and virtual_batch_size < 1:
        raise UserError(f"virtual_batch_size={virtual_batch_size} must be at least 1, or None")


def resolve_num_groups(
    num_channels: int, num_groups: int | None = None, group_size: int | None = None
) -> int:
    """How many groups `num_channels` channels fall into.

    A count that does not divide the channels is lowered by one until it does, as in the authors'
    code; this is logged once for each pair. A size is taken exactly.

    >>> resolve_num_groups(64), resolve_num_groups(48), resolve_num_groups(48, group_size=8)
    (32, 24, 6)

    Raises:
      UserError: both are given, one is below 1, or `group_size` does not divide the channels.
    """
    if num_groups is not None and group_size is not None:
        raise UserError(
            f"num_groups={num_groups} and group_size={group_size} say the same thing twice: "
            "give one of the two"
        )
    if group_size is not None:
        if group_size < 1 or num_channels % group_size:
            raise UserError(
                f"group_size={group_size} must divide the {num_channels} channels; "
                "num_groups takes the nearest smaller count that does"
            )
        return num_channels // group_size
    wanted = DEFAULT_NUM_GROUPS if num_groups is None else num_groups
    if wanted < 1:
        raise UserError(f"num_groups={num_groups} must be at least 1")
    used = next(count for count in range(wanted, 0, -1) if num_channels % count == 0)
    if used != wanted:
        _log_lowered(num_channels, wanted, used)
    return used


@functools.cache
def _log_lowered(num_channels: int, wanted: int, used: int) -> None:
    _logger.info(
        "%d groups do not divide %d channels: %d groups of %d channels are used",
        wanted,
        num_channels,
        used,
        num_channels // used,
    )


def _pool(parts: Moments, average: Callable[[jax.Array], jax.Array]) -> Moments:
    """Moments of the union of equally large parts: the law of total variance."""
    mean = average(parts.mean)
    return Moments(mean, average(parts.var + jnp.square(parts.mean - mean)))


def _average_over_groups(statistic: jax.Array, num_groups: int) -> jax.Array:
    """Averages `[N, 1, 1, C]` within each group and hands every channel its group's value."""
    *rest, num_channels = statistic.shape
    grouped = statistic.reshape(*rest, num_groups, num_channels // num_groups)
    mean = jnp.mean(grouped, axis=-1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(statistic.shape)


def _split_batch(statistic: jax.Array, virtual_batch_size: int | None) -> jax.Array:
    """`[N, 1, 1, C]` as `[V, n, 1, 1, C]`, n consecutive examples to a virtual batch."""
    batch_size, *rest = statistic.shape
    size = batch_size if virtual_batch_size is None else virtual_batch_size
    if batch_size % size:
        raise UserError(
            f"virtual_batch_size={size} must divide the {batch_size} examples of the batch "
            "(under pmap: the examples of one device)"
        )
    return statistic.reshape(batch_size // size, size, *rest)
