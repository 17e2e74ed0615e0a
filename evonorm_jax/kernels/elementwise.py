"""The elementwise halves of the layers, each with its gradient.

A form maps the tensor `x` and its coefficients to the output. The coefficients vary by sample and
channel (`[N, 1, 1, C]`) or by channel alone (`[1, 1, 1, C]`). The gradients of the coefficients
need sums over H and W: `terms` returns the summands, and `coefficient_gradients` turns the sums
into gradients. `input_gradient` is the gradient of x with the coefficients held fixed. All
arithmetic is in the accumulation dtype.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from evonorm_jax.kernels.platforms import Platform

Sums = tuple[jax.Array, ...]


class Form(Protocol):
    """The methods of an elementwise form that `fused.fused_layer` calls."""

    def apply(self, platform: Platform, x: jax.Array, coefficients: Any) -> jax.Array:
        """Computes the output `[N, H, W, C]`."""

    def terms(self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: Any) -> Sums:
        """Computes the tensors `[N, H, W, C]` that are then summed over H and W."""

    def coefficient_gradients(self, coefficients: Any, sums: Sums) -> Any:
        """Computes the gradients of the coefficients.

        Here the coefficients and the sums are `[N, C]` or `[1, C]`.
        """

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: Any
    ) -> jax.Array:
        """Computes the gradient of `x` with the coefficients held fixed, `[N, H, W, C]`."""


class GateCoefficients(NamedTuple):
    """The coefficients of `Gate`; None for `v` stands for the constant 1."""

    v: jax.Array | None
    scale: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Gate:
    """The form of the EvoNorm S series: x * sigmoid(v * x) * scale + bias."""

    def apply(self, platform: Platform, x: jax.Array, coefficients: GateCoefficients) -> jax.Array:
        v, scale, bias = coefficients
        return platform.gate(x * scale, _steepness(v), x) + bias

    def terms(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: GateCoefficients
    ) -> Sums:
        gated = x * platform.sigmoid(_steepness(coefficients.v), x)
        product = dy * gated
        if coefficients.v is None:
            return product, dy
        return product, dy, product * (x - gated)  # x^2 s (1 - s) = x s (x - x s)

    def coefficient_gradients(self, coefficients: GateCoefficients, sums: Sums) -> GateCoefficients:
        product, dy, *curvature = sums
        dv = coefficients.scale * curvature[0] if curvature else None
        return GateCoefficients(v=dv, scale=product, bias=dy)

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: GateCoefficients
    ) -> jax.Array:
        return dy * platform.gate_derivative(coefficients.scale, _steepness(coefficients.v), x)


class RatioCoefficients(NamedTuple):
    """The coefficients of `Ratio`."""

    slope: jax.Array
    offset: jax.Array
    scale: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The form of the EvoNorm B series: x / max(1, slope * x + offset) * scale + bias."""

    def apply(self, platform: Platform, x: jax.Array, coefficients: RatioCoefficients) -> jax.Array:
        denominator = jnp.maximum(_line(coefficients, x), 1)
        return platform.quotient(x * coefficients.scale, denominator) + coefficients.bias

    def terms(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: RatioCoefficients
    ) -> Sums:
        line = _line(coefficients, x)
        divide = platform.divider(jnp.maximum(line, 1))
        ratio = divide(dy)
        along_line = jnp.where(line > 1, divide(ratio) * x, 0)
        return ratio * x, dy, along_line, along_line * x

    def coefficient_gradients(
        self, coefficients: RatioCoefficients, sums: Sums
    ) -> RatioCoefficients:
        output, dy, along_line, along_line_x = sums
        return RatioCoefficients(
            slope=-coefficients.scale * along_line_x,
            offset=-coefficients.scale * along_line,
            scale=output,
            bias=dy,
        )

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: RatioCoefficients
    ) -> jax.Array:
        line = _line(coefficients, x)
        divide = platform.divider(jnp.maximum(line, 1))
        # The derivative of x / line is offset / line^2.
        derivative = divide(divide(jnp.where(line > 1, coefficients.offset, 1)))
        return coefficients.scale * dy * derivative


class AffineCoefficients(NamedTuple):
    """The coefficients of `Affine`; None for `mean` stands for 0.

    `v` is the parameter of "swish" or "tlu", and None for the other activations.
    """

    mean: jax.Array | None
    scale: jax.Array
    bias: jax.Array
    v: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Affine:
    """The form of a normalisation and an activation: activation((x - mean) * scale + bias).

    `activation` is "identity", "relu", "relu6", "silu", "swish" (z * sigmoid(v z)) or "tlu"
    (max(z, v)).
    """

    activation: str

    def apply(
        self, platform: Platform, x: jax.Array, coefficients: AffineCoefficients
    ) -> jax.Array:
        z = _affine(coefficients, x)
        match self.activation:
            case "identity":
                return z
            case "relu" | "tlu":
                return jnp.maximum(z, _threshold(coefficients.v))
            case "relu6":
                return jnp.clip(z, 0, 6)
            case _:
                return platform.gate(z, _steepness(coefficients.v), z)

    def terms(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: AffineCoefficients
    ) -> Sums:
        dz, *dv = self._gradients(platform, x, dy, coefficients)
        return dz * _centred(coefficients, x), dz, *dv

    def coefficient_gradients(
        self, coefficients: AffineCoefficients, sums: Sums
    ) -> AffineCoefficients:
        product, dz, *dv = sums
        return AffineCoefficients(
            mean=None if coefficients.mean is None else -coefficients.scale * dz,
            scale=product,
            bias=dz,
            v=dv[0] if dv else None,
        )

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: AffineCoefficients
    ) -> jax.Array:
        return coefficients.scale * self._gradients(platform, x, dy, coefficients)[0]

    def _gradients(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: AffineCoefficients
    ) -> Sums:
        """Returns the gradient of z, and the terms of the gradient of v if there is a v."""
        z = _affine(coefficients, x)
        match self.activation:
            case "identity":
                return (dy,)
            case "relu" | "tlu":
                above = z > _threshold(coefficients.v)
                dz = jnp.where(above, dy, 0)
                return (dz,) if coefficients.v is None else (dz, jnp.where(above, 0, dy))
            case "relu6":
                return (jnp.where((z > 0) & (z < 6), dy, 0),)
        dz = platform.gate_derivative(dy, _steepness(coefficients.v), z)
        if coefficients.v is None:
            return (dz,)
        gate = platform.sigmoid(coefficients.v, z)
        return dz, dy * jnp.square(z) * (gate * (1 - gate))


def _steepness(v: jax.Array | None) -> jax.Array | float:
    return 1.0 if v is None else v


def _threshold(v: jax.Array | None) -> jax.Array | int:
    return 0 if v is None else v


def _line(coefficients: RatioCoefficients, x: jax.Array) -> jax.Array:
    return coefficients.slope * x + coefficients.offset


def _centred(coefficients: AffineCoefficients, x: jax.Array) -> jax.Array:
    return x if coefficients.mean is None else x - coefficients.mean


def _affine(coefficients: AffineCoefficients, x: jax.Array) -> jax.Array:
    return _centred(coefficients, x) * coefficients.scale + coefficients.bias
