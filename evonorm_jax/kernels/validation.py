"""Checks of the arguments; each message has the value, the rule and the remedy."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from evonorm_jax.errors import UserError
from evonorm_jax.kernels.pooling import BatchPool


def check_operands(x: jax.Array, epsilon: float, **parameters: jax.Array | None) -> None:
    """Raises `UserError` unless x is a floating `[N, ..., C]` and the parameters are `[C]`.

    `scale` and `bias` may be `[N, C]` as well.
    """
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating) or x.size == 0:
        raise UserError(
            f"x is {x.dtype}{list(x.shape)}: it must be a non-empty array of floating point "
            "numbers [N, ..., C], samples first and channels last"
        )
    n, c = x.shape[0], x.shape[-1]
    for name, value in parameters.items():
        per_sample = name in ("scale", "bias")
        if value is None or value.shape == (c,) or (per_sample and value.shape == (n, c)):
            continue
        raise UserError(
            f"{name} has shape {value.shape}: x of shape {x.shape} has {c} channels, so give "
            f"shape ({c},)" + (f", or ({n}, {c}) for a {name} of each sample" if per_sample else "")
        )
    if epsilon < 0:
        raise UserError(f"epsilon={epsilon} must not be negative, e.g. 1e-5")


def check_groups(x: jax.Array, num_groups: int) -> None:
    """Raises `UserError` unless the groups divide the channels."""
    if num_groups < 1 or x.shape[-1] % num_groups:
        raise UserError(
            f"num_groups={num_groups} must divide the {x.shape[-1]} channels of x "
            f"(shape {x.shape}): choose a divisor"
        )


def batch_pool(
    x: jax.Array,
    virtual_batch_size: int | None,
    axis_name: str | tuple[str, ...] | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
) -> BatchPool:
    """Checks the arguments and returns them as one static object.

    Raises:
      UserError: `virtual_batch_size` does not divide N, or the arguments contradict one another.
    """
    check_statistics_batch(virtual_batch_size, axis_name, axis_index_groups)
    if virtual_batch_size is not None and x.shape[0] % virtual_batch_size:
        raise UserError(
            f"virtual_batch_size={virtual_batch_size} must divide the {x.shape[0]} examples of the "
            "batch (under pmap: the examples of one device): choose a divisor, or None"
        )
    if axis_index_groups is None:
        return BatchPool(virtual_batch_size, axis_name)
    groups = tuple(tuple(group) for group in axis_index_groups)
    return BatchPool(virtual_batch_size, axis_name, groups)


def check_statistics_batch(
    virtual_batch_size: int | None,
    axis_name: str | tuple[str, ...] | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
) -> None:
    """Raises `UserError` if the arguments that choose the statistics contradict one another."""
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
