"""One differentiable operation for every layer: statistics, coefficients, elementwise form.

The forward pass has three steps. It takes the moments of each sample and channel; it computes the
coefficients from them, pooled over groups or the batch, which is a tiny part; and it applies the
elementwise form.

The backward pass keeps x and those moments alone, 1.0 to 1.1 times the bytes of x, and computes the
rest again. It sums over the maps what the gradients of the coefficients need, lets JAX
differentiate the tiny part (collectives included) and writes dx. On a CPU it reads x and dy twice;
`platforms.Gpu` says how often a GPU reads them.

Differentiated by itself, the plain formula keeps 6 (S0) or 8 (B0) float32 tensors of x's shape.
Inside a compiled network on a GPU the fused operation saves no memory (see `evonorm_jax.kernels`).
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.kernels.elementwise import Form
from evonorm_jax.kernels.platforms import Platform, accumulation_dtype, expand, on_platform

Params = dict[str, jax.Array]
Statistics = tuple[jax.Array, ...]


class Layer(Protocol):
    """A hashable description of a layer; everything in it is static."""

    @property
    def form(self) -> Form:
        """The elementwise form of the layer."""

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[Any, Statistics]:
        """Computes the coefficients of `form`, and the statistics returned beside the output.

        `mean` and `variance` are `[N, C]`.
        """


def run(layer: Layer, x: jax.Array, params: Params) -> tuple[jax.Array, Statistics]:
    """Applies the layer to x `[N, ..., C]`.

    It returns y of x's shape and dtype, and the statistics without a gradient.
    """
    spatial = x.reshape(x.shape[0], -1, 1, x.shape[-1]) if x.ndim != 4 else x
    y, statistics = fused_layer(layer, spatial, params)
    return y.reshape(x.shape), jax.tree.map(lax.stop_gradient, statistics)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused_layer(layer: Layer, x: jax.Array, params: Params) -> tuple[jax.Array, Statistics]:
    """Applies the layer to x `[N, H, W, C]`; it returns y and the statistics."""
    y, statistics, _ = _forward(layer, x, params)
    return y, statistics


def _fused_layer_fwd(layer: Layer, x: jax.Array, params: Params) -> Any:
    y, statistics, moments = _forward(layer, x, params)
    return (y, statistics), (x, params, moments)


def _fused_layer_bwd(layer: Layer, residuals: Any, cotangents: Any) -> tuple[jax.Array, Params]:
    return _backward(layer, *residuals, cotangents[0])


fused_layer.defvjp(_fused_layer_fwd, _fused_layer_bwd)


# jit so that a network with many layers of one shape traces each shape once.
@functools.partial(jax.jit, static_argnums=0)
def _forward(layer: Layer, x: jax.Array, params: Params) -> Any:
    def forward(platform: Platform, x: jax.Array, params: Params) -> Any:
        dtype = accumulation_dtype(x)
        mean, variance = platform.moments(x)
        coefficients, statistics = layer.coefficients(
            platform, mean, variance, _as_coefficients(params, dtype)
        )
        wide = platform.isolate(_expand_all(coefficients))
        y = layer.form.apply(platform, x.astype(dtype), wide)
        return platform.isolate(platform.cast(y, x.dtype)), statistics, (mean, variance)

    return on_platform(forward, x, params)


@functools.partial(jax.jit, static_argnums=0)
def _backward(
    layer: Layer, x: jax.Array, params: Params, moments: Any, dy: jax.Array
) -> tuple[jax.Array, Params]:
    def backward(
        platform: Platform, x: jax.Array, params: Params, moments: Any, dy: jax.Array
    ) -> Any:
        # Or the compiler finds the forward pass's subexpressions again and keeps them: a full
        # float32 tensor more, even for bfloat16.
        x, dy = platform.separate((x, dy))
        dtype = accumulation_dtype(x)
        mean, variance = moments

        def small(mean: jax.Array, variance: jax.Array, params: Params) -> Any:
            coefficients, statistics = layer.coefficients(
                platform, mean, variance, _as_coefficients(params, dtype)
            )
            # Inside shard_map the zero varies over the devices as x does, so what is replicated
            # (parameters, synchronised statistics) gets the sum of the devices' gradients.
            zero = jnp.zeros_like(mean[:1, :1])
            return jax.tree.map(lambda coefficient: coefficient + zero, coefficients), statistics

        coefficients, pull, _ = jax.vjp(small, mean, variance, params, has_aux=True)
        wide = platform.isolate(_expand_all(coefficients))
        sums = platform.sums(lambda x, dy: layer.form.terms(platform, x, dy, wide), x, dy)
        gradients = jax.tree.map(
            _sum_to_shape, layer.form.coefficient_gradients(coefficients, sums), coefficients
        )
        dmean, dvariance, dparams = pull(gradients)
        # Or the two passes share the gate, at the price of a full tensor written and read twice.
        x, dy = platform.separate((x, dy))
        dx = layer.form.input_gradient(platform, x.astype(dtype), dy.astype(dtype), wide)
        # The mean and the variance as functions of x; x - mean, not x less a folded constant,
        # because at mean / std = 1000 the latter costs three digits.
        count = x.shape[1] * x.shape[2]
        constant, slope, mean = platform.isolate(
            _expand_all((dmean / count, 2 / count * dvariance, mean))
        )
        dx = dx + (constant + slope * (x.astype(dtype) - mean))
        return platform.isolate(platform.cast(dx, x.dtype)), dparams

    return on_platform(backward, x, params, moments, dy)


def _as_coefficients(params: Params, dtype: jnp.dtype) -> Params:
    """Reshapes `[C]` to `[1, C]`, leaves `[N, C]` (a row for each sample), and casts to `dtype`."""
    return {
        name: (value if value.ndim == 2 else value[None]).astype(dtype)
        for name, value in params.items()
    }


def _expand_all(statistics: Any) -> Any:
    return jax.tree.map(expand, statistics)


def _sum_to_shape(gradient: jax.Array, coefficient: jax.Array) -> jax.Array:
    if coefficient.shape[0] == gradient.shape[0]:
        return gradient
    return jnp.sum(gradient, axis=0, keepdims=True)
