"""EvoNorm B0, B1, B2, S0, S1 and S2 as functions of arrays (paper, tables 2 and 3).

`scale` and `bias` may be `[N, C]` as well, one row for each sample; not for "pallas".

Everywhere: x is `[N, ..., C]`, any number of spatial axes; parameters are `[C]` of any floating
dtype; the arithmetic is float32 (float64 for float64) and y has x's dtype. Variances are biased,
epsilon stands inside the root. `implementation` is

- None: "xla", except for S0 on NVIDIA Hopper GPUs. There it is the hand-written kernel for the
  shapes that this can take (`evonorm_jax.kernels.pallas.supports`), if the program is one device's
  own: there is one device, or it is inside `pmap`, or `shard_map` over all axes of the mesh. Under
  `jit` with sharded arrays the kernel could not be partitioned, and "xla" stays. A program exported
  from such a GPU runs on Hopper GPUs alone; export with "xla" for others.
- "xla": fused, reverse mode.
- "reference": plain JAX; forward mode too, slow.
- "pallas", for S0 alone: the kernel wherever the program runs; "xla" stands in on other devices and
  for shapes that it cannot take, and the log says so.
- "pallas_interpret": the kernel's program on any device, to check it; needs JAX 0.11.
"""

from collections.abc import Sequence

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import reference
from evonorm_jax.kernels.fused import Params, run
from evonorm_jax.kernels.implementations import PALLAS, is_reference, prefers_kernel
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
    """x sigmoid(v x) / group standard deviation * scale + bias.

    Args:
      x: `[N, ..., C]`.
      v: `[C]`, steepness of the gate.
      scale: `[C]` or `[N, C]`.
      bias: `[C]` or `[N, C]`.
      num_groups: groups of neighbouring channels that share a standard deviation.
      epsilon: added to the variance.
      implementation: see the module docstring.

    Returns:
      y of x's shape and dtype.

    Raises:
      UserError: a shape, a dtype, a group count or an implementation that does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[[-1.0], [1.0]]]])  # variance 1
      >>> one = jnp.ones(1)
      >>> y = evonorm_s0(x, one, one, 0 * one, num_groups=1)
      >>> [round(float(value), 3) for value in y.ravel()]
      [-0.269, 0.731]
    """
    check_operands(x, epsilon, v=v, scale=scale, bias=bias)
    check_groups(x, num_groups)
    conditional = scale.ndim == 2 or bias.ndim == 2
    if implementation in PALLAS and conditional:
        raise UserError(
            f"implementation={implementation!r} takes one scale and bias for all samples, "
            f"({x.shape[-1]},), not {scale.shape} and {bias.shape}: use None (automatic), "
            "'xla' or 'reference'"
        )
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


def evonorm_s1(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    implementation: str | None = None,
) -> jax.Array:
    """x sigmoid(x) / group standard deviation * scale + bias; see `evonorm_s0`."""
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
    """x sigmoid(x) / group root mean square * scale + bias; see `evonorm_s0`."""
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
    """x / max(batch standard deviation, v x + instance standard deviation) * scale + bias.

    Args:
      x: `[N, ..., C]`.
      v: `[C]`.
      scale: `[C]` or `[N, C]`.
      bias: `[C]` or `[N, C]`.
      epsilon: added to both variances.
      virtual_batch_size: neighbouring samples that share batch statistics; None means all N.
      axis_name: mapped axis (pmap, shard_map) whose devices join their batches; gradients flow
        through the collectives. Excludes `virtual_batch_size`.
      axis_index_groups: devices of that axis that belong together; None means all.
      implementation: None, "xla" or "reference", see the module docstring.

    Returns:
      y of x's shape and dtype, and the batch variance for the running average. That is `[C]` in
      float32, the mean over the virtual batches, without a gradient.

    Raises:
      UserError: a shape, a dtype, a batch size or an implementation that does not fit.
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
    """x / max(batch standard deviation, (x + 1) instance root mean square) * scale + bias.

    Arguments, results and errors as in `evonorm_b0`.
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
    """x / max(batch standard deviation, instance root mean square - x) * scale + bias.

    Arguments, results and errors as in `evonorm_b0`.
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
    """`evonorm_b0` with the running variance `[C]` for the batch's; the instance term stays x's.

    Differentiable in every array, the running variance included.
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
    """`evonorm_b1` with the running variance `[C]` for the batch's; see `evonorm_b0_inference`."""
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
    """`evonorm_b2` with the running variance `[C]` for the batch's; see `evonorm_b0_inference`."""
    check_operands(x, epsilon, scale=scale, bias=bias, running_var=running_var)
    return _b_series(2, x, None, scale, bias, epsilon, BatchPool(), implementation, running_var)[0]


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
