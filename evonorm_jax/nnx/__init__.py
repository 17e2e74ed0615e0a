"""The layers as Flax NNX modules: EvoNorm and the layers that it is compared with.

They compute what the Linen modules compute, from the same definitions and kernels, bit for bit.
They are used as `flax.nnx.BatchNorm` is: `num_features` comes first and everything else is a
keyword; parameters are `nnx.Param`, running statistics are `nnx.BatchStat`.

>>> import jax
>>> from flax import nnx
>>> import evonorm_jax.nnx
>>> layer = evonorm_jax.nnx.EvoNormB0(64, rngs=nnx.Rngs(0))
>>> x = 2 * jax.random.normal(jax.random.key(0), (8, 4, 4, 64))
>>> layer(x).shape, bool((layer.var[...] > 1).all())
((8, 4, 4, 64), True)
>>> layer.eval()
>>> bool(jax.numpy.allclose(layer(x[:1]), layer(x)[:1], atol=1e-5))
True

Importing this package imports `flax.nnx`; importing `evonorm_jax` alone does not.
"""

from evonorm_jax.nnx.base import NormActLayer
from evonorm_jax.nnx.conditional import ConditionalNormAct
from evonorm_jax.nnx.layers import (
    BatchInstanceNormReLU,
    BatchNormReLU,
    BatchNormReLU6,
    BatchNormSiLU,
    BatchNormSwish,
    EvoNormB0,
    EvoNormB1,
    EvoNormB2,
    EvoNormS0,
    EvoNormS1,
    EvoNormS2,
    FilterResponseNorm,
    GroupNormReLU,
    GroupNormSiLU,
    GroupNormSwish,
    InstanceNormReLU,
    LayerNormReLU,
    PixelNormReLU,
    RandomLayer,
    RandomRejectionLayer,
    RandomSearchRejectionLayer,
    SwitchableNormReLU,
)
from evonorm_jax.nnx.linen_variables import load_linen_variables, to_linen_variables
from evonorm_jax.nnx.norm_act import norm_act, norm_act_names

__all__ = [
    "BatchInstanceNormReLU",
    "BatchNormReLU",
    "BatchNormReLU6",
    "BatchNormSiLU",
    "BatchNormSwish",
    "ConditionalNormAct",
    "EvoNormB0",
    "EvoNormB1",
    "EvoNormB2",
    "EvoNormS0",
    "EvoNormS1",
    "EvoNormS2",
    "FilterResponseNorm",
    "GroupNormReLU",
    "GroupNormSiLU",
    "GroupNormSwish",
    "InstanceNormReLU",
    "LayerNormReLU",
    "NormActLayer",
    "PixelNormReLU",
    "RandomLayer",
    "RandomRejectionLayer",
    "RandomSearchRejectionLayer",
    "SwitchableNormReLU",
    "load_linen_variables",
    "norm_act",
    "norm_act_names",
    "to_linen_variables",
]
