"""The layers as the paper writes them, in plain JAX: the oracle for the other implementations.

Variances are biased and taken in two passes, the arithmetic is float32 (float64 for float64), and
epsilon stands inside the root. Every derivative works, forward mode and higher ones included. The
price, where JAX differentiates a layer by itself, is 4 (BN-ReLU), 6 (S0) or 8 (B0) float32 tensors
of x's shape kept for the backward pass.

Tensors are `[N, ..., C]` and parameters `[C]`; scale and bias can also be `[N, C]`. The arguments
are those of `evonorm_jax.kernels`, which has checked them.
"""

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.kernels.moments import upcast
from evonorm_jax.kernels.pooling import BatchPool


def evonorm_s0(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float,
) -> jax.Array:
    """Computes x sigmoid(v x) / group standard deviation * scale + bias."""
    return _s_series(x, v, scale, bias, _group_moments(upcast(x), num_groups)[1] + epsilon)


def evonorm_s1(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, num_groups: int, epsilon: float
) -> jax.Array:
    """Computes x sigmoid(x) / group standard deviation * scale + bias."""
    return _s_series(x, None, scale, bias, _group_moments(upcast(x), num_groups)[1] + epsilon)


def evonorm_s2(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, num_groups: int, epsilon: float
) -> jax.Array:
    """Computes x sigmoid(x) / group root mean square * scale + bias."""
    mean_square, _ = _group_moments(jnp.square(upcast(x)), num_groups)
    return _s_series(x, None, scale, bias, mean_square + epsilon)


def evonorm_b(
    variant: int,
    x: jax.Array,
    v: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    running_var: jax.Array | None = None,
    *,
    epsilon: float,
    pool: BatchPool,
) -> tuple[jax.Array, jax.Array]:
    """Computes x / max(batch standard deviation, instance term) * scale + bias.

    The instance term is v x + sqrt(variance) for B0, (x + 1) sqrt(mean square) for B1 and
    sqrt(mean square) - x for B2. `running_var` takes the place of the batch's own variance.

    Returns:
      y and the batch variance.
    """
    wide = upcast(x)
    axes = tuple(range(1, x.ndim - 1))
    if running_var is None:
        _, batch_variance = _batch_moments(wide, pool)
    else:
        batch_variance = _expand(running_var, wide)
    if variant == 0:
        instance = jnp.var(wide, axis=axes, keepdims=True)
    else:
        instance = jnp.mean(jnp.square(wide), axis=axes, keepdims=True)
    root = jnp.sqrt(instance + epsilon)
    if variant == 0:
        assert v is not None
        line = _expand(v, wide) * wide + root
    else:
        line = (wide + 1) * root if variant == 1 else root - wide
    denominator = jnp.maximum(jnp.sqrt(batch_variance + epsilon), line)
    return _affine(wide / denominator, scale, bias).astype(x.dtype), _per_channel(batch_variance)


def group_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    v: jax.Array | None,
    *,
    num_groups: int,
    epsilon: float,
    activation: str,
) -> jax.Array:
    """Computes activation((x - group mean) / group standard deviation * scale + bias)."""
    wide = upcast(x)
    mean, variance = _group_moments(wide, num_groups)
    z = _affine((wide - mean) / jnp.sqrt(variance + epsilon), scale, bias)
    return _activate(z, v, activation).astype(x.dtype)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    v: jax.Array | None,
    *,
    epsilon: float,
    activation: str,
    pool: BatchPool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes activation((x - mean) / standard deviation * scale + bias), mean and variance."""
    wide = upcast(x)
    mean, variance = _batch_moments(wide, pool)
    z = _affine((wide - mean) / jnp.sqrt(variance + epsilon), scale, bias)
    return (
        _activate(z, v, activation).astype(x.dtype),
        _per_channel(mean),
        _per_channel(variance),
    )


def batch_norm_inference(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running_mean: jax.Array,
    running_var: jax.Array,
    v: jax.Array | None,
    *,
    epsilon: float,
    activation: str,
) -> jax.Array:
    """Computes activation((x - running mean) / running standard deviation * scale + bias)."""
    wide = upcast(x)
    centred = wide - _expand(running_mean, wide)
    z = _affine(centred / jnp.sqrt(_expand(running_var, wide) + epsilon), scale, bias)
    return _activate(z, v, activation).astype(x.dtype)


def filter_response_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, threshold: jax.Array | None, *, epsilon: float
) -> jax.Array:
    """Computes max(x / instance root mean square * scale + bias, threshold).

    If `threshold` is None, it leaves out the maximum.
    """
    wide = upcast(x)
    mean_square = jnp.mean(jnp.square(wide), axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    z = _affine(wide / jnp.sqrt(mean_square + epsilon), scale, bias)
    return _activate(z, threshold, "identity" if threshold is None else "tlu").astype(x.dtype)


def _s_series(
    x: jax.Array, v: jax.Array | None, scale: jax.Array, bias: jax.Array, moment: jax.Array
) -> jax.Array:
    wide = upcast(x)
    gate = jax.nn.sigmoid(wide if v is None else _expand(v, wide) * wide)
    return _affine(wide * gate / jnp.sqrt(moment), scale, bias).astype(x.dtype)


def _affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return x * _expand(scale, x) + _expand(bias, x)


def _expand(param: jax.Array, x: jax.Array) -> jax.Array:
    """Gives `[C]` or `[N, C]` the rank and dtype of `x`, whose axes it then meets one by one."""
    return param.reshape(-1, *(1 for _ in x.shape[1:-1]), param.shape[-1]).astype(x.dtype)


def _activate(z: jax.Array, v: jax.Array | None, activation: str) -> jax.Array:
    parameter = 1 if v is None else _expand(v, z)
    match activation:
        case "identity":
            return z
        case "relu":
            return jax.nn.relu(z)
        case "relu6":
            return jax.nn.relu6(z)
        case "tlu":
            return jnp.maximum(z, parameter)
        case _:
            return z * jax.nn.sigmoid(parameter * z)


def _group_moments(x: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and variance over space and each group; both broadcast against `x`."""
    n, c = x.shape[0], x.shape[-1]
    grouped = x.reshape(n, -1, num_groups, c // num_groups)
    shape = (n, *(1 for _ in x.shape[1:-1]), c)

    def per_channel(moment: jax.Array) -> jax.Array:
        return jnp.repeat(moment, c // num_groups, axis=-1).reshape(shape)

    return per_channel(grouped.mean((1, 3))), per_channel(grouped.var((1, 3)))


def _batch_moments(x: jax.Array, pool: BatchPool) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and variance over each virtual batch and the devices.

    Both broadcast against `x`.
    """
    n = x.shape[0]
    size = pool.virtual_batch_size or n
    batches = x.reshape(n // size, size, *x.shape[1:])

    def average(values: jax.Array) -> jax.Array:
        values = jnp.mean(values, axis=tuple(range(1, values.ndim - 1)), keepdims=True)
        if pool.axis_name is None:
            return values
        return lax.pmean(values, pool.axis_name, axis_index_groups=pool.axis_index_groups)

    def per_sample(moment: jax.Array) -> jax.Array:
        return jnp.repeat(moment[:, 0], size, axis=0)

    mean = average(batches)
    return per_sample(mean), per_sample(average(jnp.square(batches - mean)))


def _per_channel(statistic: jax.Array) -> jax.Array:
    """Averages over the virtual batches, to `[C]` in float32 without a gradient."""
    mean = jnp.mean(statistic.reshape(-1, statistic.shape[-1]), axis=0)
    return lax.stop_gradient(mean.astype(jnp.float32))
