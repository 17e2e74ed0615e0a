"""Squeeze-excite: every channel is scaled by a gate that depends on the means of all channels.

Source: Hu et al., arXiv:1709.01507.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.models.convolution import mobile_kernel_init
from evonorm_jax.norm_act import LayerLike, activation_of


class SqueezeExcite(nn.Module):
    """`x * sigmoid(expand(activation(reduce(mean(x)))))`, `[N, H, W, C]` to the same shape.

    Attributes:
      reduced_channels: Width between the dense layers `reduce` and `expand`.
      activation: Activation between the two dense layers.
      dtype: Dtype of the dense layers and the gate; the mean is taken in float32.
    """

    reduced_channels: int
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
        gate = self._dense(self.reduced_channels, "reduce")(gate)
        gate = self._dense(x.shape[-1], "expand")(self.activation(gate))
        return x * nn.sigmoid(gate)[:, None, None, :]

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=mobile_kernel_init, dtype=self.dtype, name=name)


def gate_activation(norm_act: LayerLike) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation inside the squeeze-excite of a network of these layers.

    It is the activation of the layer: ReLU with `bn_relu`, SiLU with `bn_silu`. If the layer has
    none that can be taken apart (EvoNorm, FRN, the learned Swish), it is EfficientNet's own, SiLU;
    the paper does not say which one it used there.
    """
    try:
        return activation_of(norm_act)
    except UserError:
        return nn.silu
