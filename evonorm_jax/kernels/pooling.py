"""Moments of larger sets from the moments of each sample and channel.

The inputs are means and variances `[N, C]` over H and W. The variance of a larger set is the mean
of the variances plus the variance of the means, so no digits are lost, however large the mean:

    mean = E[mean_i]        var = E[var_i + (mean_i - mean)^2]
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.kernels.platforms import Platform


@dataclasses.dataclass(frozen=True)
class BatchPool:
    """The choice of the samples that share batch statistics.

    `validation.batch_pool` makes one from checked fields.

    Attributes:
      virtual_batch_size: Number of neighbouring samples that share their statistics; None means all
        of them.
      axis_name: Name of a mapped axis; its devices join their batches. None means that they do not.
      axis_index_groups: Tuples of the devices of that axis that join their batches; None means that
        all of them do.
    """

    virtual_batch_size: int | None = None
    axis_name: str | tuple[str, ...] | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None

    def moments(self, mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the mean and the variance over each virtual batch and H, W, `[V, C]` each."""
        spread = functools.partial(over_examples, num_examples=mean.shape[0])
        return pool_moments(mean, variance, self.average, spread)

    def average(self, x: jax.Array) -> jax.Array:
        """Averages `[N, ..., C]` over each virtual batch and the devices, to `[V, ..., C]`."""
        return self.over_devices(jnp.mean(self.split(x), axis=1))

    def split(self, x: jax.Array) -> jax.Array:
        """Reshapes `[N, ..., C]` to `[V, n, ..., C]`, n neighbouring samples in a virtual batch."""
        size = self.virtual_batch_size or x.shape[0]
        return x.reshape(-1, size, *x.shape[1:])

    def over_devices(self, x: jax.Array) -> jax.Array:
        """Averages over the devices that join their batches."""
        if self.axis_name is None:
            return x
        return lax.pmean(x, self.axis_name, axis_index_groups=self.axis_index_groups)


def over_examples(statistic: jax.Array, num_examples: int) -> jax.Array:
    """Lays `[V, ..., C]` out over the examples, so that each has the value of its virtual batch.

    The result is `[N, ..., C]`, or `[1, ..., C]` for one virtual batch, which broadcasts.
    """
    if statistic.shape[0] == 1:
        return statistic
    return jnp.repeat(statistic, num_examples // statistic.shape[0], axis=0)


def pool_moments(
    mean: jax.Array,
    variance: jax.Array,
    average: Callable[[jax.Array], jax.Array],
    spread: Callable[[jax.Array], jax.Array] = lambda pooled: pooled,
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and variance of a union of equally large parts (law of total variance).

    Args:
      mean: Means of the parts.
      variance: Variances of the parts about their own means.
      average: Function that averages the parts that are joined.
      spread: Function that lays the result of `average` out over the parts, where that does not
        broadcast itself.
    """
    pooled = average(mean)
    return pooled, average(variance + jnp.square(mean - spread(pooled)))


def group_moments(
    platform: Platform, mean: jax.Array, variance: jax.Array, num_groups: int
) -> tuple[jax.Array, jax.Array]:
    """Computes mean and variance over H, W and each group of neighbouring channels, `[N, G]`."""
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
    """Replaces infinite values by very large ones, so that groups can be pooled.

    Some platforms pool by matrix products, and 0 * inf of one group would make all others NaN. The
    value is a quarter of the largest number, because a TPU rounds factors to bfloat16, and would
    round the largest number to infinity.
    """
    return jnp.minimum(moment, jnp.finfo(moment.dtype).max / 4)


def _centred(platform: Platform, num_groups: int, mean: jax.Array) -> jax.Array:
    return mean - platform.ungroup(platform.group_mean(mean, num_groups), mean.shape[-1])
