"""What the layers are measured against, as Flax modules with the signature that a network binds.

The plain form is a transcription of the formulas, without fused kernels; Flax's own layers are
what a user has today.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax import kernels
from evonorm_jax.layers import moments


class FlaxBatchNormReLU(nn.Module):
    """`nn.BatchNorm`, then `nn.relu`."""

    use_running_average: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.BatchNorm(
            self.use_running_average, momentum=0.9, dtype=self.dtype or x.dtype, name="norm"
        )
        return nn.relu(norm(x))


class FlaxGroupNormReLU(nn.Module):
    """`nn.GroupNorm` of 32 groups, then `nn.relu`."""

    use_running_average: bool = False  # accepted and ignored
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.GroupNorm(32, dtype=self.dtype or x.dtype, name="norm")(x))


class KernelS0(nn.Module):
    """EvoNorm-S0 by one implementation of `evonorm_jax.kernels`, whatever the layers choose."""

    implementation: str
    use_running_average: bool = False  # accepted and ignored
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        return kernels.evonorm_s0(
            x.astype(self.dtype or x.dtype),
            **_parameters(self, channels),
            num_groups=moments.resolve_num_groups(channels, None, None),
            implementation=self.implementation,
        )


class KernelB0(nn.Module):
    """EvoNorm-B0 by one implementation of `evonorm_jax.kernels`, whatever the layers choose."""

    implementation: str
    use_running_average: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = x.astype(self.dtype or x.dtype)
        parameters = _parameters(self, channels)
        running = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if self.use_running_average:
            return kernels.evonorm_b0_inference(
                x, **parameters, running_var=running.value, implementation=self.implementation
            )
        y, var = kernels.evonorm_b0(x, **parameters, implementation=self.implementation)
        if not self.is_initializing():
            running.value = 0.9 * running.value + 0.1 * var
        return y


#: By the name of the layer that they compute.
KERNEL_LAYERS: dict[str, type[nn.Module]] = {"evonorm_s0": KernelS0, "evonorm_b0": KernelB0}


def kernel_layer(name: str, implementation: str) -> functools.partial:
    """A factory of "evonorm_s0" or "evonorm_b0" by one implementation, such as "reference"."""
    return functools.partial(KERNEL_LAYERS[name], implementation=implementation)


def pallas_implementations() -> tuple[str, ...]:
    """The hand-written kernels that `evonorm_jax.kernels` offers on an accelerator, if any."""
    return tuple(name for name in kernels.IMPLEMENTATIONS if name == "pallas")


def _parameters(layer: nn.Module, channels: int) -> dict[str, Any]:
    """v, scale and bias by name."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    inits = {"v": ones, "scale": ones, "bias": zeros}
    return {name: layer.param(name, init, (channels,)) for name, init in inits.items()}
