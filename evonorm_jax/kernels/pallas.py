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
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import batching, mlir

from evonorm_jax.kernels import mosaic_gpu, reference
from evonorm_jax.kernels.fused import run
from evonorm_jax.kernels.implementations import without_kernel
from evonorm_jax.kernels.layers import EvoNormS
from evonorm_jax.kernels.platforms import accumulation_dtype

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
    layer = _Layer(num_groups, epsilon, interpret, parts, log)
    y, _ = _evonorm_s0(layer, _spatial(x), v, scale, bias)
    return y.reshape(x.shape)


def evonorm_s0_pallas_with_shortcut(
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
) -> tuple[jax.Array, jax.Array]:
    """Computes `evonorm_s0_pallas`, and returns x beside it for the shortcut of a residual block.

    The kernel adds the shortcut's gradient to dx before it writes dx. Outside it, the sum would
    read dx again and write another tensor. Arguments and errors are those of `evonorm_s0_pallas`.

    Returns:
      y and x, of x's shape and dtype.
    """
    layer = _Layer(num_groups, epsilon, interpret, parts, log)
    y, shortcut = _evonorm_s0_with_shortcut(layer, _spatial(x), v, scale, bias)
    return y.reshape(x.shape), shortcut.reshape(x.shape)


def _spatial(x: jax.Array) -> jax.Array:
    return x if x.ndim == 4 else x.reshape(x.shape[0], -1, 1, x.shape[-1])


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
def _evonorm_s0_with_shortcut(
    layer: _Layer, x: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    y, _ = _forward(layer, x, v, scale, bias)
    return y, x


def _evonorm_s0_with_shortcut_fwd(layer: _Layer, *operands: jax.Array) -> Any:
    (y, _), residuals = _evonorm_s0_fwd(layer, *operands)
    return (y, operands[0]), residuals


def _evonorm_s0_with_shortcut_bwd(
    layer: _Layer, residuals: tuple[Arrays, jax.Array], cotangents: Any
) -> Arrays:
    return _gradients(layer, *residuals, *cotangents)


_evonorm_s0_with_shortcut.defvjp(_evonorm_s0_with_shortcut_fwd, _evonorm_s0_with_shortcut_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(
    layer: _Layer,
    operands: Arrays,
    statistics: jax.Array,
    dy: jax.Array,
    dshortcut: jax.Array | None = None,
) -> Arrays:
    """Computes the gradients of x, v, scale and bias; `dshortcut` is added to that of x."""
    return _backward(layer, operands, statistics, dy, dshortcut)


def _gradients_fwd(
    layer: _Layer,
    operands: Arrays,
    statistics: jax.Array,
    dy: jax.Array,
    dshortcut: jax.Array | None = None,
) -> Any:
    gradients = _gradients(layer, operands, statistics, dy, dshortcut)
    return gradients, (operands, statistics, dy, dshortcut)


def _gradients_bwd(layer: _Layer, residuals: Any, cotangents: Arrays) -> Any:
    """Computes the second derivative, from the plain formula.

    In the plain formula the statistics are functions of x, so x's cotangent includes the part that
    goes through them.
    """
    operands, statistics, dy, dshortcut = residuals

    def gradients(operands: Arrays, dy: jax.Array) -> Arrays:
        plain = functools.partial(
            reference.evonorm_s0, num_groups=layer.num_groups, epsilon=layer.epsilon
        )
        return jax.vjp(plain, *operands)[1](dy)

    doperands, ddy = jax.vjp(gradients, operands, dy)[1](cotangents)
    ddshortcut = None if dshortcut is None else cotangents[0]
    return doperands, jnp.zeros_like(statistics), ddy, ddshortcut


_gradients.defvjp(_gradients_fwd, _gradients_bwd)


class _Pass:
    """One way through the layer, as the kernel or in XLA's form.

    The choice falls when a program is lowered, and only the form that is chosen is traced.
    `lax.platform_dependent` would trace both, for every shape and for the batch of one image that
    parameters are initialised with: to lower a ResNet-50 for a GPU took 2.4 to 2.7 times as
    long as in XLA's form, and takes 2.0.

    Both forms take arrays and, by name, a `_Layer`, and return arrays of the same shapes and
    dtypes: those that `results` returns for the arrays' types.
    """

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Arrays],
        stand_in: Callable[..., Arrays],
        results: Callable[..., tuple[ShapedArray, ...]],
    ) -> None:
        self._kernel, self._stand_in = kernel, stand_in
        self._primitive = core.Primitive(name)
        self._primitive.multiple_results = True
        self._primitive.def_abstract_eval(results)
        self._primitive.def_impl(self._evaluate)
        batching.primitive_batchers[self._primitive] = self._batch
        mlir.register_lowering(self._primitive, mlir.lower_fun(kernel), platform="cuda")
        mlir.register_lowering(self._primitive, self._lower_stand_in)

    def __call__(self, layer: _Layer, x: jax.Array, *others: jax.Array) -> Arrays:
        # So replicated parameters get each device's gradient, which `_gradient_of` sums.
        operands = (x, *_varying_as(x, others))
        if layer.interpret:
            results = self._kernel(*operands, layer=layer)
        elif reason := (
            mosaic_gpu.supports(x.shape, x.dtype, layer.num_groups) or without_kernel()
        ):
            _log(layer, reason)
            results = self._stand_in(*operands, layer=layer)
        else:
            results = self._primitive.bind(*operands, layer=layer)
        return _varying_as(x, tuple(results))

    def _evaluate(self, *operands: jax.Array, layer: _Layer) -> Any:
        with jax.disable_jit(False):  # only without `jit` does JAX come here
            return jax.jit(functools.partial(self._primitive.bind, layer=layer))(*operands)

    def _batch(self, operands: Any, axes: Any, *, layer: _Layer) -> Any:
        forms = (functools.partial(form, layer=layer) for form in (self._kernel, self._stand_in))
        cuda, default = (jax.vmap(form, axes) for form in forms)
        results = lax.platform_dependent(*operands, cuda=cuda, default=default)
        return results, [0] * len(results)

    def _lower_stand_in(self, context: Any, *operands: Any, layer: _Layer) -> Any:
        _log(layer, "there is a kernel for NVIDIA Hopper GPUs alone")
        return mlir.lower_fun(self._stand_in)(context, *operands, layer=layer)


def _forward_kernel(
    x: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array, *, layer: _Layer
) -> Arrays:
    settings = (layer.num_groups, layer.epsilon, layer.interpret, layer.parts)
    return mosaic_gpu.forward(x, v, scale, bias, *settings)


def _forward_stand_in(x: jax.Array, *params: jax.Array, layer: _Layer) -> Arrays:
    unused = jnp.zeros((2, x.shape[0], x.shape[-1]), jnp.float32)
    return _xla_form(layer, x, *params), unused


def _forward_results(x: ShapedArray, *_: ShapedArray, layer: _Layer) -> tuple[ShapedArray, ...]:
    del layer
    statistics = ShapedArray((2, x.shape[0], x.shape[-1]), jnp.float32)
    return x.update(weak_type=False), statistics


def _backward_kernel(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    statistics: jax.Array,
    dy: jax.Array,
    dshortcut: jax.Array | None = None,
    *,
    layer: _Layer,
) -> Arrays:
    del bias
    settings = (layer.num_groups, layer.interpret, layer.parts)
    dx, (a, b, d) = mosaic_gpu.backward(x, dy, v, scale, statistics, *settings, dshortcut)
    rstd = statistics[1]
    dv = scale * jnp.sum(rstd * d, axis=0)
    dscale = jnp.sum(rstd * a, axis=0)
    dbias = jnp.sum(b, axis=0)
    return dx, dv, dscale, dbias


def _backward_stand_in(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    statistics: jax.Array,
    dy: jax.Array,
    dshortcut: jax.Array | None = None,
    *,
    layer: _Layer,
) -> Arrays:
    del statistics
    params = (param.astype(accumulation_dtype(x)) for param in (v, scale, bias))
    dx, *gradients = jax.vjp(functools.partial(_xla_form, layer), x, *params)[1](dy)
    return dx if dshortcut is None else dx + dshortcut, *gradients


def _backward_results(
    x: ShapedArray, *others: ShapedArray, layer: _Layer
) -> tuple[ShapedArray, ...]:
    del layer
    params = others[:3]
    gradients = (param.update(dtype=jnp.dtype(jnp.float32), weak_type=False) for param in params)
    return x.update(weak_type=False), *gradients


_forward_pass = _Pass("evonorm_s0_forward", _forward_kernel, _forward_stand_in, _forward_results)
_backward_pass = _Pass(
    "evonorm_s0_backward", _backward_kernel, _backward_stand_in, _backward_results
)


# jit so that a network with many layers of one shape traces and lowers each shape once.
@functools.partial(jax.jit, static_argnums=0)
def _forward(layer: _Layer, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, statistics = _forward_pass(layer, *operands)
    return y, statistics


@functools.partial(jax.jit, static_argnums=0)
def _backward(
    layer: _Layer,
    operands: Arrays,
    statistics: jax.Array,
    dy: jax.Array,
    dshortcut: jax.Array | None,
) -> Arrays:
    cotangents = (dy,) if dshortcut is None else (dy, dshortcut)
    dx, *gradients = _backward_pass(layer, *operands, statistics, *cotangents)
    return dx, *map(_gradient_of, operands[1:], gradients)


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


def _log(layer: _Layer, reason: str) -> None:
    if layer.log:
        _log_once(reason)


@functools.cache
def _log_once(reason: str) -> None:
    _logger.warning("EvoNorm-S0 without its hand-written kernel, in XLA's form: %s", reason)
