"""Normalisation followed by an activation: the layers EvoNorm is compared with.

Shapes, dtypes and `implementation` are those of `evonorm_jax.kernels.evonorm`. `activation` is
"identity", "relu", "relu6" (min(max(z, 0), 6)), "silu" (z sigmoid(z)) or "swish" (z sigmoid(v z),
with the parameter v `[C]`).
"""

from collections.abc import Sequence

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import reference
from evonorm_jax.kernels.elementwise import Affine
from evonorm_jax.kernels.fused import Params, run
from evonorm_jax.kernels.implementations import is_reference
from evonorm_jax.kernels.layers import BatchNorm, FilterResponseNorm, GroupNorm
from evonorm_jax.kernels.validation import batch_pool, check_groups, check_operands

#: What `activation=` accepts; "swish" needs v, the others do not take it.
ACTIVATIONS = ("identity", "relu", "relu6", "silu", "swish")


def group_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    v: jax.Array | None = None,
    *,
    num_groups: int,
    activation: str,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes activation((x - group mean) / group standard deviation * scale + bias).

    One group is layer normalisation over space and channels, C groups are instance normalisation.

    Raises:
      UserError: A shape, a dtype, the group count, the activation or the implementation does not
        fit.
    """
    check_operands(x, epsilon, scale=scale, bias=bias, v=v)
    check_groups(x, num_groups)
    _check_activation(activation, v)
    if is_reference(implementation):
        return reference.group_norm(
            x, scale, bias, v, num_groups=num_groups, epsilon=epsilon, activation=activation
        )
    return run(GroupNorm(num_groups, epsilon, Affine(activation)), x, _params(scale, bias, v))[0]


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    v: jax.Array | None = None,
    *,
    activation: str,
    epsilon: float = 1e-5,
    virtual_batch_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes activation((x - batch mean) / batch standard deviation * scale + bias).

    `evonorm_b0` documents the arguments that choose the statistics.

    Returns:
      y, the batch's mean and the batch's variance. The mean and the variance are `[C]` in float32,
      averaged over the virtual batches, without a gradient.

    Raises:
      UserError: A shape, a dtype, the virtual batch size, the activation or the implementation does
        not fit, or the arguments that choose the statistics contradict one another.
    """
    check_operands(x, epsilon, scale=scale, bias=bias, v=v)
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    _check_activation(activation, v)
    if is_reference(implementation):
        return reference.batch_norm(
            x, scale, bias, v, epsilon=epsilon, activation=activation, pool=pool
        )
    layer = BatchNorm(epsilon, Affine(activation), pool)
    y, (mean, variance) = run(layer, x, _params(scale, bias, v))
    return y, mean, variance


def batch_norm_inference(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running_mean: jax.Array,
    running_var: jax.Array,
    v: jax.Array | None = None,
    *,
    activation: str,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes activation((x - running mean) / running standard deviation * scale + bias).

    It has no statistics of x, so every implementation is the plain one.

    Raises:
      UserError: A shape, a dtype, the activation or the implementation does not fit.
    """
    check_operands(
        x, epsilon, scale=scale, bias=bias, v=v, running_mean=running_mean, running_var=running_var
    )
    _check_activation(activation, v)
    is_reference(implementation)
    return reference.batch_norm_inference(
        x, scale, bias, running_mean, running_var, v, epsilon=epsilon, activation=activation
    )


def filter_response_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    threshold: jax.Array | None,
    *,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes max(x / instance root mean square * scale + bias, threshold).

    If `threshold` is None, it leaves out the maximum.

    Raises:
      UserError: A shape, a dtype or the implementation does not fit.
    """
    check_operands(x, epsilon, scale=scale, bias=bias, threshold=threshold)
    if is_reference(implementation):
        return reference.filter_response_norm(x, scale, bias, threshold, epsilon=epsilon)
    form = Affine("identity" if threshold is None else "tlu")
    return run(FilterResponseNorm(epsilon, form), x, _params(scale, bias, threshold))[0]


def _check_activation(activation: str, v: jax.Array | None) -> None:
    if activation not in ACTIVATIONS:
        raise UserError(f"activation={activation!r} is unknown: use one of {ACTIVATIONS}")
    if (activation == "swish") != (v is not None):
        raise UserError(
            f"activation={activation!r} {'needs' if v is None else 'has no'} parameter v: "
            'v belongs to "swish" and to no other activation'
        )


def _params(scale: jax.Array, bias: jax.Array, v: jax.Array | None) -> Params:
    params = {"scale": scale, "bias": bias}
    return params if v is None else {**params, "v": v}
