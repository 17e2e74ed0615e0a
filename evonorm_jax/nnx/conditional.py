"""A norm-activation layer with a scale and bias computed for each example, as an NNX module.

`evonorm_jax.layers.conditional` has the formula and its source.

>>> import jax, jax.numpy as jnp
>>> from evonorm_jax.nnx import EvoNormS0
>>> layer = ConditionalNormAct(32, 5, EvoNormS0, rngs=nnx.Rngs(0))
>>> layer(jnp.ones((2, 4, 4, 32)), jnp.ones((2, 5))).shape
(2, 4, 4, 32)
>>> layer.norm_act.scale is None, layer.scale.kernel.shape
(True, (5, 32))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class ConditionalNormAct(nnx.Module):
    """A layer with scale and bias from a condition, `[N, H, W, C]` to `[N, H, W, C]`.

    Args:
      num_features: Number of channels, C.
      condition_features: Length of a condition, K.
      norm_act: Function that makes the layer, as `evonorm_jax.nnx.norm_act` returns it.
      linear: Function that makes a linear map from K, C, `use_bias` and `rngs`. By default its
        parameters and its arithmetic are float32.
      rngs: Where the keys of the initializers come from.

    Attributes:
      norm_act: The layer.
      scale: The linear map to the scale.
      bias: The linear map to the bias.
    """

    def __init__(
        self,
        num_features: int,
        condition_features: int,
        norm_act: Callable[..., Any],
        *,
        linear: Callable[..., Any] = nnx.Linear,
        rngs: nnx.Rngs,
    ) -> None:
        self.scale = linear(condition_features, num_features, use_bias=False, rngs=rngs)
        self.bias = linear(condition_features, num_features, use_bias=False, rngs=rngs)
        self.norm_act = norm_act(num_features, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(
        self, x: jax.Array, condition: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Applies the layer.

        Args:
          x: Images `[N, H, W, C]` of any floating dtype.
          condition: Conditions `[N, K]`, one row for each image.
          use_running_average: As in the call of the layer.

        Returns:
          The output `[N, H, W, C]`.

        Raises:
          UserError: The layer does not accept `x`, or `condition` has another N than `x`.
        """
        condition = condition.astype(jnp.promote_types(condition.dtype, jnp.float32))
        scale, bias = 1 + self.scale(condition), self.bias(condition)
        return self.norm_act(x, use_running_average, scale=scale, bias=bias)
