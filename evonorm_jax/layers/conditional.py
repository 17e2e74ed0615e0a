"""A norm-activation layer with a scale and bias computed for each example from a condition.

Let c be the condition of an example, e.g. its noise and the embedding of its class. Then

    scale = 1 + W c        bias = W' c

so that a layer with c = 0 is the unconditional one as it is initialised. Source: Brock, Donahue and
Simonyan 2019 (arXiv:1809.11096), appendix B, where the layer is BatchNorm. Other parameters of the
layer, such as `v` of EvoNorm, stay one per channel.

>>> import jax, jax.numpy as jnp
>>> from evonorm_jax import EvoNormS0
>>> layer = ConditionalNormAct(EvoNormS0)
>>> x, condition = jnp.ones((2, 4, 4, 32)), jnp.ones((2, 5))
>>> params = layer.init(jax.random.key(0), x, condition)["params"]
>>> jax.tree.map(jnp.shape, params)
{'bias': {'kernel': (5, 32)}, 'norm_act': {'v': (32,)}, 'scale': {'kernel': (5, 32)}}
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class ConditionalNormAct(nn.Module):
    """A layer with scale and bias from a condition, `[N, H, W, C]` to `[N, H, W, C]`.

    The layer is the submodule `norm_act`, and the two linear maps are the submodules `scale` and
    `bias`.

    Attributes:
      norm_act: Function that makes the layer, as `evonorm_jax.norm_act` does.
      dense: Function that makes a linear map from its width, `use_bias` and `name`. By default its
        parameters and its arithmetic are float32.
    """

    norm_act: Callable[..., nn.Module]
    dense: Callable[..., nn.Module] = nn.Dense

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Applies the layer.

        Args:
          x: Images `[N, H, W, C]` of any floating dtype.
          condition: Conditions `[N, K]`, one row for each image.
          use_running_average: True in evaluation, False in training; None where `norm_act` has it
            bound.

        Returns:
          The output `[N, H, W, C]`.

        Raises:
          UserError: The layer does not accept `x`, or `condition` has another N than `x`.
        """
        condition = condition.astype(jnp.promote_types(condition.dtype, jnp.float32))
        features = x.shape[-1]
        scale = 1 + self.dense(features, use_bias=False, name="scale")(condition)
        bias = self.dense(features, use_bias=False, name="bias")(condition)
        layer = self.norm_act(name="norm_act")
        return layer(x, use_running_average, scale=scale, bias=bias)
