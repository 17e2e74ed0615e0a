"""The moments of a tensor over each index set of the search space (paper, Table 1).

A statistic is what is averaged over batches, before any root: "mean", "var" (centred, biased) or
"mean_square". Reductions in JAX come from `evonorm_jax.kernels.moments`; those in NumPy are written
out, for the values in float64. The tests compare both with each other.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import numpy as np

from evonorm_jax.kernels import moments

#: Index sets by the suffix in the names of the aggregations, and as the paper writes them: b is the
#: batch, w and h are the map, c the channels and c/g the channels of one group.
INDEX_SETS: Mapping[str, str] = MappingProxyType(
    {"bwh": "b,w,h", "whc": "w,h,c", "wh": "w,h", "whcg": "w,h,c/g"}
)

#: The statistics of which a layer can keep running averages.
STATISTICS = ("mean", "var", "mean_square")

_AXES = {"bwh": (0, 1, 2), "whc": (1, 2, 3), "wh": (1, 2)}


def reduce_batch(statistic: str, x: jax.Array, **pooling: object) -> jax.Array:
    """Computes a statistic of each channel over (b, w, h), with the options of `batch_moments`."""
    if statistic == "mean_square":
        return moments.batch_mean_square(x, **pooling)  # type: ignore[arg-type]
    batch = moments.batch_moments(x, **pooling)  # type: ignore[arg-type]
    return batch.mean if statistic == "mean" else batch.var


def reduce_example(statistic: str, index_set: str, x: jax.Array, num_groups: int) -> jax.Array:
    """Computes a statistic within each example of `[N, h, w, C]`; broadcasts against `x`."""
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


def reduce_batch_numpy(statistic: str, x: np.ndarray) -> np.ndarray:
    """Computes a statistic of each channel over (b, w, h) in NumPy: `[1, 1, 1, C]`."""
    return _reduce_axes(statistic, x, _AXES["bwh"])


def reduce_example_numpy(
    statistic: str, index_set: str, x: np.ndarray, num_groups: int
) -> np.ndarray:
    """Computes a statistic within each example in NumPy; broadcasts against `x`."""
    if index_set != "whcg":
        return _reduce_axes(statistic, x, _AXES[index_set])
    size, height, width, channels = x.shape
    grouped = x.reshape(size, height, width, num_groups, channels // num_groups)
    value = _reduce_axes(statistic, grouped, (1, 2, 4))
    spread = np.broadcast_to(value, (size, 1, 1, *grouped.shape[3:]))
    return spread.reshape(size, 1, 1, channels)


def _reduce_axes(statistic: str, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if statistic == "mean_square":
        return np.mean(np.square(x), axis=axes, keepdims=True)
    mean = np.mean(x, axis=axes, keepdims=True)
    if statistic == "mean":
        return mean
    return np.mean(np.square(x - mean), axis=axes, keepdims=True)
