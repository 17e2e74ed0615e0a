"""Moments of images over each index set of the paper, for layers that have no kernel.

Each statistic of `[N, H, W, C]` starts from one reduction, over the height and width of a single
map; the maps are then pooled over a group, a layer, the batch or the devices (`pooling`). This is
both fast and accurate. A reduction over height and width keeps the channels, the minor axis, whole,
which on XLA:CPU is 14 times faster than a reduction over a split channel axis. The variance of the
values about their own mean (two passes) cannot turn negative, while `E[x^2] - E[x]^2` did so in 11
of 32 channels at mean 1000 and standard deviation 0.1.

All arithmetic is float32, or float64 for float64. All variances are biased (divided by the number
of values): a single value has variance 0, never NaN.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from evonorm_jax.kernels.platforms import accumulation_dtype
from evonorm_jax.kernels.pooling import pool_moments
from evonorm_jax.kernels.validation import batch_pool


class Moments(NamedTuple):
    """The mean and the biased, centred variance; both broadcast against `[N, H, W, C]`."""

    mean: jax.Array
    var: jax.Array


def upcast(x: jax.Array) -> jax.Array:
    """Converts `x` to the accumulation dtype. Squares of float16 overflow above 255."""
    return x.astype(accumulation_dtype(x))


def instance_moments(x: jax.Array) -> Moments:
    """Computes the moments of each map, over (w, h): `[N, 1, 1, C]`."""
    x = upcast(x)
    mean = jnp.mean(x, axis=(1, 2), keepdims=True)
    return Moments(mean, jnp.mean(jnp.square(x - mean), axis=(1, 2), keepdims=True))


def instance_mean_square(x: jax.Array) -> jax.Array:
    """Computes the uncentred second moment of each map, over (w, h): `[N, 1, 1, C]`."""
    return jnp.mean(jnp.square(upcast(x)), axis=(1, 2), keepdims=True)


def layer_moments(x: jax.Array) -> Moments:
    """Computes the moments of each example, over (w, h, c): `[N, 1, 1, 1]`."""
    average = functools.partial(jnp.mean, axis=-1, keepdims=True)
    return Moments(*pool_moments(*instance_moments(x), average))


def layer_mean_square(x: jax.Array) -> jax.Array:
    """Computes the uncentred second moment of each example, over (w, h, c): `[N, 1, 1, 1]`."""
    return jnp.mean(instance_mean_square(x), axis=-1, keepdims=True)


def group_moments(x: jax.Array, num_groups: int) -> Moments:
    """Computes the moments of each group of neighbouring channels, over (w, h, c/g).

    Every channel gets those of its group: `[N, 1, 1, C]`.
    """
    average = functools.partial(_average_over_groups, num_groups=num_groups)
    return Moments(*pool_moments(*instance_moments(x), average))


def group_mean_square(x: jax.Array, num_groups: int) -> jax.Array:
    """Computes the uncentred second moment of each group, over (w, h, c/g): `[N, 1, 1, C]`."""
    return _average_over_groups(instance_mean_square(x), num_groups=num_groups)


def pixel_mean_square(x: jax.Array) -> jax.Array:
    """Computes the uncentred second moment of each pixel, over c: `[N, H, W, 1]`."""
    return jnp.mean(jnp.square(upcast(x)), axis=-1, keepdims=True)


def batch_moments(
    x: jax.Array,
    *,
    virtual_batch_size: int | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Moments:
    """Computes the moments of each channel, over (b, w, h): `[V, 1, 1, C]`, V virtual batches.

    Args:
      x: Images `[N, H, W, C]`.
      virtual_batch_size: Number of consecutive examples that share their statistics; None means all
        (V = 1). `pooling.over_examples` lays the V statistics out over the examples again.
      axis_name: Name of a `pmap` or `shard_map` axis; its devices pool their statistics.
      axis_index_groups: Lists of the devices of that axis that pool with one another; None means
        that all of them do.

    Raises:
      UserError: `virtual_batch_size` does not divide N, or the arguments contradict one another.
    """
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    mean, var = instance_moments(x)
    average = functools.partial(jnp.mean, axis=1, keepdims=True)
    mean, var = pool_moments(pool.split(mean), pool.split(var), average)
    batch = Moments(jnp.squeeze(mean, axis=1), jnp.squeeze(var, axis=1))
    return batch if axis_name is None else Moments(*pool_moments(*batch, pool.over_devices))


def batch_mean_square(
    x: jax.Array,
    *,
    virtual_batch_size: int | None = None,
    axis_name: str | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> jax.Array:
    """Computes the uncentred second moment of each channel, over (b, w, h): `[V, 1, 1, C]`.

    It takes the arguments of `batch_moments`.
    """
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    return pool.average(instance_mean_square(x))


def _average_over_groups(statistic: jax.Array, num_groups: int) -> jax.Array:
    """Averages `[N, 1, 1, C]` within each group, and gives every channel its group's value."""
    *rest, num_channels = statistic.shape
    grouped = statistic.reshape(*rest, num_groups, num_channels // num_groups)
    mean = jnp.mean(grouped, axis=-1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(statistic.shape)
