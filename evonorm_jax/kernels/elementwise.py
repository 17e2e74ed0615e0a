"""The elementwise halves of the layers, each with its gradient.

A form maps the tensor `x` and coefficients that vary by sample and channel (`[N, 1, 1, C]`) or by
channel alone (`[1, 1, 1, C]`) to the output. `terms` gives what must be summed over H and W for the
gradients of the coefficients, `coefficient_gradients` turns the sums into them, and
`input_gradient` is the derivative along x with the coefficients held fixed. All arithmetic is in
the accumulation dtype.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from evonorm_jax.kernels.platforms import Platform

Sums = tuple[jax.Array, ...]


class Form(Protocol):
    """What `fused.fused_layer` needs of an elementwise form."""

    def apply(self, platform: Platform, x: jax.Array, coefficients: Any) -> jax.Array:
        """The output."""

    def terms(self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: Any) -> Sums:
        """What is summed over H and W."""

    def coefficient_gradients(self, coefficients: Any, sums: Sums) -> Any:
        """Gradients of the coefficients; here these and the sums are `[N, C]` or `[1, C]`."""

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: Any
    ) -> jax.Array:
        """The gradient of x, coefficients held fixed."""


class GateCoefficients(NamedTuple):
    """`v` None stands for the constant 1."""

    v: jax.Array | None
    scale: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Gate:
    """x * sigmoid(v * x) * scale + bias: the EvoNorm S series."""

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
        derivative, _ = _gate_derivative(platform, coefficients.v, x)
        return coefficients.scale * dy * derivative


class RatioCoefficients(NamedTuple):
    """`slope` None stands for the constant -1 (EvoNorm-B2)."""

    slope: jax.Array | None
    offset: jax.Array
    floor: jax.Array
    scale: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Ratio:
    """x / max(floor, slope * x + offset) * scale + bias: the EvoNorm B series."""

    def apply(self, platform: Platform, x: jax.Array, coefficients: RatioCoefficients) -> jax.Array:
        denominator = jnp.maximum(coefficients.floor, _line(coefficients, x))
        return x * coefficients.scale / denominator + coefficients.bias

    def terms(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: RatioCoefficients
    ) -> Sums:
        _, along_line, ratio = self._parts(x, dy, coefficients)
        return ratio * x, dy, along_line, along_line * x

    def coefficient_gradients(
        self, coefficients: RatioCoefficients, sums: Sums
    ) -> RatioCoefficients:
        slope, offset, floor, scale, _ = coefficients
        output, dy, along_line, along_line_x = sums
        if slope is None:
            on_line = offset * along_line - along_line_x
        else:
            on_line = offset * along_line + slope * along_line_x
        return RatioCoefficients(
            slope=None if slope is None else -scale * along_line_x,
            offset=-scale * along_line,
            # Where the floor is the larger: all of the output less what lies on the line.
            floor=-scale / floor * (output - on_line),
            scale=output,
            bias=dy,
        )

    def input_gradient(
        self, platform: Platform, x: jax.Array, dy: jax.Array, coefficients: RatioCoefficients
    ) -> jax.Array:
        _, along_line, ratio = self._parts(x, dy, coefficients)
        if coefficients.slope is None:
            return coefficients.scale * (ratio + along_line)
        return coefficients.scale * (ratio - coefficients.slope * along_line)

    def _parts(
        self, x: jax.Array, dy: jax.Array, coefficients: RatioCoefficients
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """1 / denominator, dy x / denominator^2 where the line is the larger, dy / denominator."""
        line = _line(coefficients, x)
        inverse = 1 / jnp.maximum(coefficients.floor, line)
        ratio = dy * inverse
        along_line = jnp.where(line > coefficients.floor, ratio * inverse * x, 0)
        return inverse, along_line, ratio


class AffineCoefficients(NamedTuple):
    """`mean` None stands for 0; `v` is the parameter of "swish" or "tlu"."""

    mean: jax.Array | None
    scale: jax.Array
    bias: jax.Array
    v: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Affine:
    """activation((x - mean) * scale + bias): normalisation followed by an activation.

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
        """The gradient of z, and the terms of the gradient of v if there is one."""
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
        derivative, gate = _gate_derivative(platform, coefficients.v, z)
        if coefficients.v is None:
            return (dy * derivative,)
        return dy * derivative, dy * jnp.square(z) * (gate * (1 - gate))


def _steepness(v: jax.Array | None) -> jax.Array | float:
    return 1.0 if v is None else v


def _threshold(v: jax.Array | None) -> jax.Array | int:
    return 0 if v is None else v


def _gate_derivative(
    platform: Platform, v: jax.Array | None, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """d(x sigmoid(v x))/dx, and sigmoid(v x)."""
    gate = platform.sigmoid(_steepness(v), x)
    return gate + _steepness(v) * x * gate * (1 - gate), gate


def _line(coefficients: RatioCoefficients, x: jax.Array) -> jax.Array:
    if coefficients.slope is None:
        return coefficients.offset - x
    return coefficients.slope * x + coefficients.offset


def _centred(coefficients: AffineCoefficients, x: jax.Array) -> jax.Array:
    return x if coefficients.mean is None else x - coefficients.mean


def _affine(coefficients: AffineCoefficients, x: jax.Array) -> jax.Array:
    return _centred(coefficients, x) * coefficients.scale + coefficients.bias
