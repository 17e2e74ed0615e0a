"""Moments of larger sets from the moments of each sample and channel.

The inputs are means and variances `[N, C]` over H and W; variances of the larger sets are the mean
variance plus the variance of the means, so no digits are lost whatever the mean.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.kernels.platforms import Platform


@dataclasses.dataclass(frozen=True)
class BatchPool:
    """Which samples share batch statistics.

    Attributes:
      virtual_batch_size: neighbouring samples that share theirs; None means all of them.
      axis_name: mapped axis over whose devices the corresponding virtual batches are joined.
      axis_index_groups: devices of that axis that belong together; None means all.
    """

    virtual_batch_size: int | None = None
    axis_name: str | tuple[str, ...] | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None

    def moments(self, mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance over each virtual batch and H, W, `[V, C]`."""
        pooled = self._average(mean)
        centre = unbatch(pooled, mean.shape[0])
        return pooled, self._average(variance + jnp.square(mean - centre))

    def _average(self, x: jax.Array) -> jax.Array:
        size = self.virtual_batch_size or x.shape[0]
        x = jnp.mean(x.reshape(-1, size, x.shape[-1]), axis=1)
        if self.axis_name is None:
            return x
        return lax.pmean(x, self.axis_name, axis_index_groups=self.axis_index_groups)


def unbatch(x: jax.Array, num_samples: int) -> jax.Array:
    """`[V, C]` laid out so that it broadcasts over the samples, each with its own batch's value."""
    return x if x.shape[0] == 1 else jnp.repeat(x, num_samples // x.shape[0], axis=0)


def group_moments(
    platform: Platform, mean: jax.Array, variance: jax.Array, num_groups: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over H, W and each group of neighbouring channels, `[N, G]`."""
    pooled = platform.group_mean(mean, num_groups)
    return pooled, _group_variance(platform, num_groups, mean, variance)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _group_variance(
    platform: Platform, num_groups: int, mean: jax.Array, variance: jax.Array
) -> jax.Array:
    centred = _centred(platform, num_groups, mean)
    return platform.group_mean(finite(variance + jnp.square(centred)), num_groups)


@_group_variance.defjvp
def _group_variance_jvp(
    platform: Platform,
    num_groups: int,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    # The variance does not change with its centre to first order. JAX cannot know, and would spend
    # two of the nine small matrix products of a step on the zero.
    centred = _centred(platform, num_groups, primals[0])
    change = tangents[1] + 2 * centred * tangents[0]
    return _group_variance(platform, num_groups, *primals), platform.group_mean(change, num_groups)


def finite(moment: jax.Array) -> jax.Array:
    """A moment that groups can be pooled from: what is infinite is very large instead.

    Some platforms pool by matrix products, and 0 * inf of one group would make all others NaN. A
    quarter of the largest number, for a TPU rounds factors to bfloat16: the largest to infinity.
    """
    return jnp.minimum(moment, jnp.finfo(moment.dtype).max / 4)


def _centred(platform: Platform, num_groups: int, mean: jax.Array) -> jax.Array:
    return mean - platform.ungroup(platform.group_mean(mean, num_groups), mean.shape[-1])
