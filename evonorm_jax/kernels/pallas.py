"""EvoNorm-S0 through the hand-written GPU and TPU kernels, as one differentiable function.

The kernels are `mosaic_gpu` and `mosaic_tpu`; both keep x and two numbers per sample and group for
the backward pass, and give per-sample, per-channel sums from which the parameters' gradients are
put together here. The kernel is chosen when the program is lowered. Under `jit` with sharded
arrays a kernel is opaque to the partitioner: call it inside `shard_map`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import mlir

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import mosaic_gpu, mosaic_tpu

Hardware = Literal["gpu", "tpu"]

_KERNELS: dict[Hardware, Any] = {"gpu": mosaic_gpu, "tpu": mosaic_tpu}

Residuals = tuple[jax.Array, ...]


def evonorm_s0_pallas(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    interpret: bool = False,
    interpret_as: Hardware = "tpu",
) -> jax.Array:
    """x sigmoid(v x) / group standard deviation * scale + bias.

    Args:
      x: `[N, ..., C]`, float32 or bfloat16.
      v: `[C]`.
      scale: `[C]`.
      bias: `[C]`.
      num_groups: groups of neighbouring channels; divides C.
      epsilon: added to the variance.
      interpret: run the kernel's program on whatever device there is, slowly, to check it.
      interpret_as: whose kernel to interpret; that for GPUs needs JAX 0.11.

    Returns:
      y of x's shape and dtype.

    Raises:
      UserError: with `interpret`, at once, if the kernel cannot take x; without, when the program
        is lowered for a platform that has no kernel, or whose kernel cannot take x.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[[-1.0], [1.0]]]])  # variance 1
      >>> one = jnp.ones(1)
      >>> y = evonorm_s0_pallas(x, one, one, 0 * one, num_groups=1, interpret=True)
      >>> [round(float(value), 3) for value in y.ravel()]
      [-0.269, 0.731]
    """
    spatial = x if x.ndim == 4 else x.reshape(x.shape[0], -1, 1, x.shape[-1])
    target = interpret_as if interpret else None
    return _evonorm_s0(target, num_groups, epsilon, spatial, v, scale, bias).reshape(x.shape)


def supports(shape: tuple[int, ...], dtype: Any, num_groups: int, hardware: Hardware) -> str | None:
    """None when the kernels of `hardware` can take x `[N, ..., C]`, else the reason, a sentence."""
    if len(shape) != 4:
        shape = (shape[0], int(np.prod(shape[1:-1])), 1, shape[-1])
    return _KERNELS[hardware].supports(shape, dtype, num_groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _evonorm_s0(
    interpret_as: Hardware | None,
    num_groups: int,
    epsilon: float,
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
) -> jax.Array:
    return _forward(interpret_as, num_groups, epsilon, x, v, scale, bias)[0]


def _evonorm_s0_fwd(
    interpret_as: Hardware | None,
    num_groups: int,
    epsilon: float,
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, Residuals]:
    y, mean, rstd = _forward(interpret_as, num_groups, epsilon, x, v, scale, bias)
    return y, (x, v, scale, bias, mean, rstd)


def _evonorm_s0_bwd(
    interpret_as: Hardware | None,
    num_groups: int,
    epsilon: float,
    residuals: Residuals,
    dy: jax.Array,
) -> tuple[jax.Array, ...]:
    del epsilon  # In rstd.
    return _backward(interpret_as, num_groups, *residuals, dy)


_evonorm_s0.defvjp(_evonorm_s0_fwd, _evonorm_s0_bwd)


# jit so that a network with many layers of one shape traces each shape once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(
    interpret_as: Hardware | None, num_groups: int, epsilon: float, *operands: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def forward(hardware: Hardware, *operands: jax.Array) -> Any:
        interpret = interpret_as is not None
        return _KERNELS[hardware].forward(*operands, num_groups, epsilon, interpret)

    return _on_hardware(forward, interpret_as, num_groups, *operands)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(
    interpret_as: Hardware | None,
    num_groups: int,
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    rstd: jax.Array,
    dy: jax.Array,
) -> tuple[jax.Array, ...]:
    def backward(hardware: Hardware, *operands: jax.Array) -> Any:
        return _KERNELS[hardware].backward(*operands, num_groups, interpret_as is not None)

    dx, a, b, d = _on_hardware(backward, interpret_as, num_groups, x, dy, v, scale, mean, rstd)
    rstd = jnp.repeat(rstd, x.shape[-1] // num_groups, axis=1)
    dv = scale * jnp.sum(rstd * d, axis=0)
    dscale = jnp.sum(rstd * a, axis=0)
    dbias = jnp.sum(b, axis=0)
    return dx, dv.astype(v.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


def _on_hardware(
    function: Callable[..., Any],
    interpret_as: Hardware | None,
    num_groups: int,
    *operands: jax.Array,
) -> Any:
    """`function(hardware, *operands)` for the platform that the program is lowered for.

    A platform without a kernel for x is an error only if the program is lowered for it.
    """
    if interpret_as is not None:
        return function(interpret_as, *operands)
    x = operands[0]

    def reason(hardware: Hardware) -> str | None:
        return _KERNELS[hardware].supports(x.shape, x.dtype, num_groups)

    kernels = {h: functools.partial(function, h) for h in _KERNELS if reason(h) is None}
    if not kernels:
        raise UserError(_refusal(f"{reason('gpu')}; {reason('tpu')}"))
    result = jax.eval_shape(next(iter(kernels.values())), *operands)

    def refuse(message: str) -> Callable[..., Any]:
        def stand_in(*operands: jax.Array) -> Any:
            leaves, tree = jax.tree.flatten(result)
            avals = tuple((leaf.shape, leaf.dtype.name) for leaf in leaves)
            values = _refuse.bind(*operands, avals=avals, message=message)
            return jax.tree.unflatten(tree, values)

        return stand_in

    def branch(hardware: Hardware) -> Callable[..., Any]:
        if hardware in kernels:
            return kernels[hardware]
        return refuse(_refusal(str(reason(hardware))))

    others = _refusal("there are kernels for NVIDIA Hopper GPUs and for TPUs alone")
    return lax.platform_dependent(
        *operands, cuda=branch("gpu"), tpu=branch("tpu"), default=refuse(others)
    )


def _refusal(reason: str) -> str:
    return f"implementation='pallas': {reason}: use None (automatic) or 'xla'"


# Stands for a kernel that there is not: traced like one, so that one program serves the platforms
# that have it, and an error once it is lowered.
_refuse = core.Primitive("evonorm_s0_without_kernel")
_refuse.multiple_results = True


@_refuse.def_abstract_eval
def _refuse_abstract_eval(*_: Any, avals: Any, message: str) -> list[Any]:
    del message
    return [jax.core.ShapedArray(shape, jnp.dtype(dtype)) for shape, dtype in avals]


def _refuse_lowering(*_: Any, message: str, **__: Any) -> NoReturn:
    raise UserError(message)


mlir.register_lowering(_refuse, _refuse_lowering)
