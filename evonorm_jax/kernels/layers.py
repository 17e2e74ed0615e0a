"""Each layer as coefficients of an elementwise form (paper, tables 2 and 3).

Statistics are `[N, C]`. Parameters are `[1, C]` in the accumulation dtype; `scale` and `bias` can
also be `[N, C]`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.kernels.elementwise import (
    Affine,
    AffineCoefficients,
    Gate,
    GateCoefficients,
    Ratio,
    RatioCoefficients,
)
from evonorm_jax.kernels.fused import Params, Statistics
from evonorm_jax.kernels.platforms import Platform
from evonorm_jax.kernels.pooling import BatchPool, finite, group_moments, over_examples


@dataclasses.dataclass(frozen=True)
class EvoNormS:
    """EvoNorm-S0 (with v among the params), S1 (without v) and S2 (without v, not centred)."""

    num_groups: int
    epsilon: float
    centred: bool = True
    form = Gate()

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[GateCoefficients, Statistics]:
        """Computes scale / group standard deviation (or root mean square), and v and bias."""
        if self.centred:
            _, moment = group_moments(platform, mean, variance, self.num_groups)
        else:
            moment = platform.group_mean(finite(variance + jnp.square(mean)), self.num_groups)
        inverse = platform.ungroup(lax.rsqrt(moment + self.epsilon), mean.shape[-1])
        return GateCoefficients(params.get("v"), inverse * params["scale"], params["bias"]), ()


@dataclasses.dataclass(frozen=True)
class EvoNormB:
    """EvoNorm-B0, B1 and B2, by `variant` 0, 1 and 2.

    With `running_var` among the params it is the layer in inference.
    """

    variant: int
    epsilon: float
    pool: BatchPool
    form = Ratio()

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[RatioCoefficients, Statistics]:
        """Computes the instance term as a line in x, and the scale, in units of the batch term."""
        del platform
        moment = variance if self.variant == 0 else variance + jnp.square(mean)
        offset = jnp.sqrt(moment + self.epsilon)
        match self.variant:
            case 0:
                slope = params["v"]
            case 1:
                slope = offset
            case _:
                slope = -jnp.ones_like(params["scale"])
        if "running_var" in params:
            batch_variance = params["running_var"]
        else:
            _, batch_variance = self.pool.moments(mean, variance)
        inverse = over_examples(lax.rsqrt(batch_variance + self.epsilon), mean.shape[0])
        coefficients = RatioCoefficients(
            inverse * slope, inverse * offset, inverse * params["scale"], params["bias"]
        )
        return coefficients, (_per_channel(batch_variance),)


@dataclasses.dataclass(frozen=True)
class GroupNorm:
    """Group normalisation and an activation.

    One group makes layer normalisation, as many groups as channels make instance normalisation.
    """

    num_groups: int
    epsilon: float
    form: Affine

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[AffineCoefficients, Statistics]:
        """Computes the group's mean and scale / standard deviation."""
        channels = mean.shape[-1]
        mean, variance = group_moments(platform, mean, variance, self.num_groups)
        scale = platform.ungroup(lax.rsqrt(variance + self.epsilon), channels) * params["scale"]
        mean = platform.ungroup(mean, channels)
        return AffineCoefficients(mean, scale, params["bias"], params.get("v")), ()


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation and an activation."""

    epsilon: float
    form: Affine
    pool: BatchPool

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[AffineCoefficients, Statistics]:
        """Computes the batch's mean and scale / standard deviation."""
        del platform
        n = mean.shape[0]
        mean, variance = self.pool.moments(mean, variance)
        statistics = _per_channel(mean), _per_channel(variance)
        scale = over_examples(lax.rsqrt(variance + self.epsilon), n) * params["scale"]
        return (
            AffineCoefficients(over_examples(mean, n), scale, params["bias"], params.get("v")),
            statistics,
        )


@dataclasses.dataclass(frozen=True)
class FilterResponseNorm:
    """x / root mean square over H and W, then the thresholded linear unit or no activation."""

    epsilon: float
    form: Affine

    def coefficients(
        self, platform: Platform, mean: jax.Array, variance: jax.Array, params: Params
    ) -> tuple[AffineCoefficients, Statistics]:
        """Computes scale / root mean square over H and W."""
        del platform
        scale = lax.rsqrt(variance + jnp.square(mean) + self.epsilon) * params["scale"]
        return AffineCoefficients(None, scale, params["bias"], params.get("v")), ()


def _per_channel(statistic: jax.Array) -> jax.Array:
    """Averages `[V, C]` over the V virtual batches, to `[C]` in float32."""
    return jnp.mean(statistic, axis=0).astype(jnp.float32)
