"""EvoNorm B0, B1, B2, S0, S1 and S2 as functions of arrays (paper, tables 2 and 3).

In all functions x is `[N, ..., C]` with any number of spatial axes, and the parameters are `[C]` of
any floating dtype. `scale` and `bias` may also be `[N, C]`, one row for each sample, except with
the implementations whose names begin with "pallas". The arithmetic is float32 (float64 for
float64), and y has x's dtype. Variances are biased, and epsilon stands inside the root.
`implementation` is

- None: "xla", except for S0 on NVIDIA Hopper GPUs. There it is the hand-written kernel for the
  shapes that the kernel can take (`evonorm_jax.kernels.pallas.supports`), if the program is for one
  device: there is one device, or the call is inside `pmap`, or inside `shard_map` over all axes of
  the mesh. Under `jit` with sharded arrays the kernel could not be partitioned, so it is "xla". A
  program exported from such a GPU runs on Hopper GPUs alone; export with "xla" for others.
- "xla": the fused form, with derivatives in reverse mode.
- "reference": plain JAX, which is slow but also has derivatives in forward mode.
- "pallas", for S0 alone: the kernel on Hopper GPUs. On other devices, and for shapes that the
  kernel cannot take, "xla" takes its place, and the log says so.
- "pallas_shortcut", for S0 alone: the same, and in `evonorm_s0_with_shortcut` the kernel also adds
  the gradient of the shortcut. It moves fewer bytes and was never timed.
- "pallas_interpret", for S0 alone: the kernel's program on any device, to check it. It needs JAX
  0.11.
"""

from collections.abc import Sequence

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import reference
from evonorm_jax.kernels.fused import Params, run
from evonorm_jax.kernels.implementations import (
    PALLAS,
    WITH_SHORTCUT,
    is_reference,
    prefers_kernel,
)
from evonorm_jax.kernels.layers import EvoNormB, EvoNormS
from evonorm_jax.kernels.pooling import BatchPool
from evonorm_jax.kernels.validation import batch_pool, check_groups, check_operands


def evonorm_s0(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes x sigmoid(v x) / group standard deviation * scale + bias.

    Args:
      x: Tensor `[N, ..., C]`.
      v: Steepness of the gate, `[C]`.
      scale: Scale, `[C]` or `[N, C]`.
      bias: Bias, `[C]` or `[N, C]`.
      num_groups: Number of groups of neighbouring channels that share a standard deviation.
      epsilon: Constant added to the variance.
      implementation: None or one of `evonorm_jax.kernels.IMPLEMENTATIONS` (see the module
        docstring).

    Returns:
      y of x's shape and dtype.

    Raises:
      UserError: A shape, a dtype, the group count or the implementation does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[[-1.0], [1.0]]]])  # variance 1
      >>> one = jnp.ones(1)
      >>> y = evonorm_s0(x, one, one, 0 * one, num_groups=1)
      >>> [round(float(value), 3) for value in y.ravel()]
      [-0.269, 0.731]
    """
    conditional = _check_s0(x, v, scale, bias, num_groups, epsilon, implementation)
    automatic = implementation is None and not conditional and _kernel_is_faster(x, num_groups)
    if automatic or implementation in PALLAS:
        # Imported where it is asked for: Pallas takes 0.5 s.
        from evonorm_jax.kernels.pallas import evonorm_s0_pallas

        return evonorm_s0_pallas(
            x,
            v,
            scale,
            bias,
            num_groups=num_groups,
            epsilon=epsilon,
            interpret=implementation == "pallas_interpret",
            log=not automatic,
        )
    if is_reference(implementation):
        return reference.evonorm_s0(x, v, scale, bias, num_groups=num_groups, epsilon=epsilon)
    return run(EvoNormS(num_groups, epsilon), x, {"v": v, "scale": scale, "bias": bias})[0]


def evonorm_s0_with_shortcut(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes `evonorm_s0`, and returns x beside it for the shortcut of a residual block.

    The gradient of x is the sum of the layer's and the shortcut's. With "pallas_shortcut" and
    "pallas_interpret" the hand-written kernel adds them; otherwise XLA does. Arguments and errors
    are those of `evonorm_s0`.

    Returns:
      y and x, of x's shape and dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[[-1.0], [1.0]]]])
      >>> one = jnp.ones(1)
      >>> y, shortcut = evonorm_s0_with_shortcut(x, one, one, 0 * one, num_groups=1)
      >>> [round(float(value), 3) for value in (shortcut + y).ravel()]
      [-1.269, 1.731]
    """
    if implementation not in WITH_SHORTCUT:
        y = evonorm_s0(
            x,
            v,
            scale,
            bias,
            num_groups=num_groups,
            epsilon=epsilon,
            implementation=implementation,
        )
        return y, x
    _check_s0(x, v, scale, bias, num_groups, epsilon, implementation)
    from evonorm_jax.kernels.pallas import evonorm_s0_pallas_with_shortcut

    return evonorm_s0_pallas_with_shortcut(
        x,
        v,
        scale,
        bias,
        num_groups=num_groups,
        epsilon=epsilon,
        interpret=implementation == "pallas_interpret",
    )


def evonorm_s1(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes x sigmoid(x) / group standard deviation * scale + bias.

    Arguments, result and errors are those of `evonorm_s0`, but there is no v.
    """
    check_operands(x, epsilon, scale=scale, bias=bias)
    check_groups(x, num_groups)
    if is_reference(implementation):
        return reference.evonorm_s1(x, scale, bias, num_groups=num_groups, epsilon=epsilon)
    return run(EvoNormS(num_groups, epsilon), x, {"scale": scale, "bias": bias})[0]


def evonorm_s2(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes x sigmoid(x) / group root mean square * scale + bias.

    Arguments, result and errors are those of `evonorm_s0`, but there is no v.
    """
    check_operands(x, epsilon, scale=scale, bias=bias)
    check_groups(x, num_groups)
    if is_reference(implementation):
        return reference.evonorm_s2(x, scale, bias, num_groups=num_groups, epsilon=epsilon)
    layer = EvoNormS(num_groups, epsilon, centred=False)
    return run(layer, x, {"scale": scale, "bias": bias})[0]


def evonorm_b0(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float = 1e-5,
    virtual_batch_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes x / max(batch standard deviation, v x + instance standard deviation) * scale + bias.

    Args:
      x: Tensor `[N, ..., C]`.
      v: Slope of the instance term, `[C]`.
      scale: Scale, `[C]` or `[N, C]`.
      bias: Bias, `[C]` or `[N, C]`.
      epsilon: Constant added to both variances.
      virtual_batch_size: Number of neighbouring samples that share batch statistics; None means all
        N.
      axis_name: Name of a mapped axis (pmap, shard_map); its devices join their batches, and
        gradients flow through the collectives. It excludes `virtual_batch_size`.
      axis_index_groups: Lists of the devices of that axis that join their batches; None means that
        all of them do.
      implementation: None, "xla" or "reference" (see the module docstring).

    Returns:
      y of x's shape and dtype, and the batch variance for the running average. The variance is
      `[C]` in float32, averaged over the virtual batches, without a gradient.

    Raises:
      UserError: A shape, a dtype, the virtual batch size or the implementation does not fit, or the
        arguments that choose the statistics contradict one another.
    """
    check_operands(x, epsilon, v=v, scale=scale, bias=bias)
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    return _b_series(0, x, v, scale, bias, epsilon, pool, implementation)


def evonorm_b1(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float = 1e-5,
    virtual_batch_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes x / max(batch standard deviation, (x + 1) instance root mean square) * scale + bias.

    Arguments, results and errors are those of `evonorm_b0`, but there is no v.
    """
    check_operands(x, epsilon, scale=scale, bias=bias)
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    return _b_series(1, x, None, scale, bias, epsilon, pool, implementation)


def evonorm_b2(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float = 1e-5,
    virtual_batch_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes x / max(batch standard deviation, instance root mean square - x) * scale + bias.

    Arguments, results and errors are those of `evonorm_b0`, but there is no v.
    """
    check_operands(x, epsilon, scale=scale, bias=bias)
    pool = batch_pool(x, virtual_batch_size, axis_name, axis_index_groups)
    return _b_series(2, x, None, scale, bias, epsilon, pool, implementation)


def evonorm_b0_inference(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running_var: jax.Array,
    *,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes `evonorm_b0` with the running variance `[C]` in place of the batch's.

    The instance term is still that of x. The result is differentiable in every array, the running
    variance included.
    """
    check_operands(x, epsilon, v=v, scale=scale, bias=bias, running_var=running_var)
    return _b_series(0, x, v, scale, bias, epsilon, BatchPool(), implementation, running_var)[0]


def evonorm_b1_inference(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running_var: jax.Array,
    *,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes `evonorm_b1` with the running variance `[C]` in place of the batch's.

    The instance term is still that of x, as in `evonorm_b0_inference`.
    """
    check_operands(x, epsilon, scale=scale, bias=bias, running_var=running_var)
    return _b_series(1, x, None, scale, bias, epsilon, BatchPool(), implementation, running_var)[0]


def evonorm_b2_inference(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running_var: jax.Array,
    *,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """Computes `evonorm_b2` with the running variance `[C]` in place of the batch's.

    The instance term is still that of x, as in `evonorm_b0_inference`.
    """
    check_operands(x, epsilon, scale=scale, bias=bias, running_var=running_var)
    return _b_series(2, x, None, scale, bias, epsilon, BatchPool(), implementation, running_var)[0]


def _check_s0(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    num_groups: int,
    epsilon: float,
    implementation: str | None,
) -> bool:
    """Returns whether each sample has a scale or bias of its own, after all checks."""
    check_operands(x, epsilon, v=v, scale=scale, bias=bias)
    check_groups(x, num_groups)
    conditional = scale.ndim == 2 or bias.ndim == 2
    if implementation in PALLAS and conditional:
        raise UserError(
            f"implementation={implementation!r} takes one scale and bias for all samples, "
            f"({x.shape[-1]},), not {scale.shape} and {bias.shape}: use None (automatic), "
            "'xla' or 'reference'"
        )
    return conditional


def _kernel_is_faster(x: jax.Array, num_groups: int) -> bool:
    # On an H100 it took 0.72 of the time of XLA's form, the geometric mean over six shapes in
    # bfloat16, and a step of a ResNet-50 with 128 images 0.91.
    if not prefers_kernel():
        return False
    from evonorm_jax.kernels.pallas import supports

    return supports(x.shape, x.dtype, num_groups) is None


def _b_series(
    variant: int,
    x: jax.Array,
    v: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    pool: BatchPool,
    implementation: str | None,
    running_var: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    if is_reference(implementation):
        return reference.evonorm_b(
            variant, x, v, scale, bias, running_var, epsilon=epsilon, pool=pool
        )
    params: Params = {"scale": scale, "bias": bias}
    if v is not None:
        params["v"] = v
    if running_var is not None:
        params["running_var"] = running_var
    y, (batch_variance,) = run(EvoNormB(variant, epsilon, pool), x, params)
    return y, batch_variance
