"""Flax's own layers, as users have them today, with the signature that a network binds."""

from __future__ import annotations

import jax
from flax import linen as nn
from flax.typing import Dtype


class FlaxBatchNormReLU(nn.Module):
    """`nn.BatchNorm`, then `nn.relu` unless the network asks for a linear layer."""

    use_running_average: bool = False
    nonlinearity: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.BatchNorm(
            self.use_running_average, momentum=0.9, dtype=self.dtype or x.dtype, name="norm"
        )
        return nn.relu(norm(x)) if self.nonlinearity else norm(x)


class FlaxGroupNormReLU(nn.Module):
    """`nn.GroupNorm` of 32 groups, then `nn.relu`."""

    use_running_average: bool = False  # accepted and ignored
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.GroupNorm(32, dtype=self.dtype or x.dtype, name="norm")(x))
