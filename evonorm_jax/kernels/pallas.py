"""EvoNorm-S0 through the hand-written kernel for Hopper GPUs, as one differentiable function.

The kernel (`mosaic_gpu`) keeps x and two numbers per sample and channel for the backward pass. It
returns sums for each sample and channel, from which this module computes the parameters' gradients.
The kernel is used when the program is lowered for an NVIDIA GPU. On every other platform, and where
the kernel cannot take x, XLA's form takes its place. With `log` the log says so, once for each
reason. Under `jit` with sharded arrays the kernel is opaque to the partitioner: call it inside
`shard_map`.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import batching, mlir

from evonorm_jax.kernels import mosaic_gpu, reference
from evonorm_jax.kernels.fused import run
from evonorm_jax.kernels.implementations import without_kernel
from evonorm_jax.kernels.layers import EvoNormS

_logger = logging.getLogger(__name__)

Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """The static arguments of a layer."""

    num_groups: int
    epsilon: float
    interpret: bool
    parts: int | None
    log: bool


def evonorm_s0_pallas(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    interpret: bool = False,
    parts: int | None = None,
    log: bool = True,
) -> jax.Array:
    """Computes x sigmoid(v x) / group standard deviation * scale + bias.

    It is differentiable in reverse mode, any number of times. Derivatives beyond the first are
    those of the plain formula.

    Args:
      x: Tensor `[N, ..., C]`; the kernel takes float32 and bfloat16.
      v: Steepness of the gate, `[C]`.
      scale: Scale, `[C]`.
      bias: Bias, `[C]`.
      num_groups: Number of groups of neighbouring channels, which divides C.
      epsilon: Constant added to the variance.
      interpret: Whether to run the kernel's program, slowly, on any device, to check it. This needs
        JAX 0.11.
      parts: Number of thread blocks (1, 2, 4 or 8) that share a sample's block of channels; None
        leaves it to `mosaic_gpu_slab.plan`.
      log: Whether the log says why, if XLA's form takes the kernel's place.

    Returns:
      y of x's shape and dtype.

    Raises:
      UserError: `interpret` is True, and the kernel cannot take x or JAX is too old.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[[-1.0], [1.0]]]])  # variance 1; one channel is none for the kernel
      >>> one = jnp.ones(1)
      >>> y = evonorm_s0_pallas(x, one, one, 0 * one, num_groups=1)
      >>> [round(float(value), 3) for value in y.ravel()]
      [-0.269, 0.731]
    """
    spatial = x if x.ndim == 4 else x.reshape(x.shape[0], -1, 1, x.shape[-1])
    layer = _Layer(num_groups, epsilon, interpret, parts, log)
    y, _ = _evonorm_s0(layer, spatial, v, scale, bias)
    return y.reshape(x.shape)


def supports(shape: tuple[int, ...], dtype: Any, num_groups: int) -> str | None:
    """Returns None if the kernel can take x `[N, ..., C]`, and the reason in words otherwise."""
    if len(shape) != 4:
        shape = (shape[0], math.prod(shape[1:-1]), 1, shape[-1])
    return mosaic_gpu.supports(shape, dtype, num_groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _evonorm_s0(
    layer: _Layer, x: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns y and the statistics `[2, N, C]` that the kernel keeps (see `mosaic_gpu.forward`)."""
    return _forward(layer, x, v, scale, bias)


def _evonorm_s0_fwd(layer: _Layer, *operands: jax.Array) -> Any:
    # Not `_forward`: a second derivative goes through what stands here.
    y, statistics = _evonorm_s0(layer, *operands)
    return (y, statistics), (operands, statistics)


def _evonorm_s0_bwd(layer: _Layer, residuals: tuple[Arrays, jax.Array], cotangents: Any) -> Arrays:
    # Nothing depends on the statistics' cotangents: see `_gradients_bwd`.
    return _gradients(layer, *residuals, cotangents[0])


_evonorm_s0.defvjp(_evonorm_s0_fwd, _evonorm_s0_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(layer: _Layer, operands: Arrays, statistics: jax.Array, dy: jax.Array) -> Arrays:
    """Computes the gradients of x, v, scale and bias."""
    return _backward(layer, operands, statistics, dy)


def _gradients_fwd(layer: _Layer, operands: Arrays, statistics: jax.Array, dy: jax.Array) -> Any:
    return _gradients(layer, operands, statistics, dy), (operands, statistics, dy)


def _gradients_bwd(layer: _Layer, residuals: Any, cotangents: Arrays) -> Any:
    """Computes the second derivative, from the plain formula.

    In the plain formula the statistics are functions of x, so x's cotangent includes the part that
    goes through them.
    """
    operands, statistics, dy = residuals

    def gradients(operands: Arrays, dy: jax.Array) -> Arrays:
        plain = functools.partial(
            reference.evonorm_s0, num_groups=layer.num_groups, epsilon=layer.epsilon
        )
        return jax.vjp(plain, *operands)[1](dy)

    doperands, ddy = jax.vjp(gradients, operands, dy)[1](cotangents)
    return doperands, jnp.zeros_like(statistics), ddy


_gradients.defvjp(_gradients_fwd, _gradients_bwd)


# jit so that a network with many layers of one shape traces and lowers each shape once.
@functools.partial(jax.jit, static_argnums=0)
def _forward(layer: _Layer, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    def kernel(
        x: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        settings = (layer.num_groups, layer.epsilon, layer.interpret, layer.parts)
        return _varying_as(x, mosaic_gpu.forward(x, v, scale, bias, *settings))

    def stand_in(x: jax.Array, *params: jax.Array) -> tuple[jax.Array, jax.Array]:
        unused = jnp.zeros((2, x.shape[0], x.shape[-1]), jnp.float32)
        return _xla_form(layer, x, *params), _varying_as(x, unused)

    return _choose(layer, kernel, stand_in, *operands)


@functools.partial(jax.jit, static_argnums=0)
def _backward(layer: _Layer, operands: Arrays, statistics: jax.Array, dy: jax.Array) -> Arrays:
    def kernel(x: jax.Array, params: Arrays, statistics: jax.Array, dy: jax.Array) -> Arrays:
        v, scale, _ = params
        settings = (layer.num_groups, layer.interpret, layer.parts)
        results = mosaic_gpu.backward(x, dy, v, scale, statistics, *settings)
        dx, (a, b, d) = _varying_as(x, results)
        rstd = statistics[1]
        dv = scale * jnp.sum(rstd * d, axis=0)
        dscale = jnp.sum(rstd * a, axis=0)
        dbias = jnp.sum(b, axis=0)
        return dx, *map(_gradient_of, params, (dv, dscale, dbias))

    def stand_in(x: jax.Array, params: Arrays, statistics: jax.Array, dy: jax.Array) -> Arrays:
        del statistics
        return jax.vjp(functools.partial(_xla_form, layer), x, *params)[1](dy)

    x, *params = operands
    return _choose(layer, kernel, stand_in, x, tuple(params), statistics, dy)


def _xla_form(
    layer: _Layer, x: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    params = {"v": v, "scale": scale, "bias": bias}
    return run(EvoNormS(layer.num_groups, layer.epsilon), x, params)[0]


def _varying_as(x: jax.Array, results: Any) -> Any:
    """Marks `results` as varying over the same devices as x, inside `shard_map`.

    The kernel's results do not carry this mark.
    """

    def vary(result: jax.Array) -> jax.Array:
        axes = _varying_axes(x) - _varying_axes(result)
        return lax.pcast(result, tuple(axes), to="varying") if axes else result

    return jax.tree.map(vary, results)


def _gradient_of(param: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient of a parameter in its dtype.

    Inside `shard_map` a replicated parameter gets the sum of the devices' gradients.
    """
    axes = _varying_axes(gradient) - _varying_axes(param)
    return (lax.psum(gradient, tuple(axes)) if axes else gradient).astype(param.dtype)


def _varying_axes(x: jax.Array) -> frozenset[Any]:
    return jax.typeof(x).manual_axis_type.varying


def _choose(
    layer: _Layer, kernel: Callable[..., Any], stand_in: Callable[..., Any], *operands: Any
) -> Any:
    """Calls the kernel if the GPU that the program is lowered for has it and it can take x.

    Otherwise it calls `stand_in`.
    """
    x = operands[0]
    if layer.interpret:
        return kernel(*operands)
    reason = mosaic_gpu.supports(x.shape, x.dtype, layer.num_groups) or without_kernel()

    def logged(reason: str) -> Callable[..., Any]:
        if not layer.log:
            return stand_in
        return lambda x, *others: stand_in(_log_when_lowered.bind(x, reason=reason), *others)

    if reason is not None:
        return logged(reason)(*operands)
    elsewhere = logged("there is a kernel for NVIDIA Hopper GPUs alone")
    return lax.platform_dependent(*operands, cuda=kernel, default=elsewhere)


@functools.cache
def _log_once(reason: str) -> None:
    _logger.warning("EvoNorm-S0, implementation='pallas': %s: XLA's form is taken", reason)


# The identity. It logs when it is lowered, because only then the platform is known.
_log_when_lowered = core.Primitive("evonorm_s0_log_when_lowered")
_log_when_lowered.def_abstract_eval(lambda x, *, reason: x)
batching.defvectorized(_log_when_lowered)


def _lower_log(_: Any, x: Any, *, reason: str) -> list[Any]:
    _log_once(reason)
    return [x]


mlir.register_lowering(_log_when_lowered, _lower_log)
