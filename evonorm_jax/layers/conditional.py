"""A norm-activation layer whose scale and bias are computed for each example from a condition.

With c the condition of an example, e.g. its noise and the embedding of its class:

    scale = 1 + W c        bias = W' c

so that a layer with c = 0 is the unconditional one as it is initialised. Source: Brock, Donahue and
Simonyan 2019 (arXiv:1809.11096), appendix B, where the layer is BatchNorm; what it has besides,
such as `v` of EvoNorm, stays one per channel.

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
    """Scale and bias of `norm_act` from a condition, `[N, H, W, C]` to `[N, H, W, C]`.

    The layer is the submodule `norm_act`, the two maps are `scale` and `bias`.

    Attributes:
      norm_act: makes the layer, as `evonorm_jax.norm_act` does.
      dense: makes a linear map from its width, `use_bias` and `name`; both in float32 by default.
    """

    norm_act: Callable[..., nn.Module]
    dense: Callable[..., nn.Module] = nn.Dense

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Applies the layer.

        Args:
          x: `[N, H, W, C]`, any floating dtype.
          condition: `[N, K]`.
          use_running_average: as in every layer; None where `norm_act` has it bound.

        Raises:
          UserError: what the layer raises, also for another N than that of `x`.
        """
        condition = condition.astype(jnp.promote_types(condition.dtype, jnp.float32))
        features = x.shape[-1]
        scale = 1 + self.dense(features, use_bias=False, name="scale")(condition)
        bias = self.dense(features, use_bias=False, name="bias")(condition)
        layer = self.norm_act(name="norm_act")
        return layer(x, use_running_average, scale=scale, bias=bias)
