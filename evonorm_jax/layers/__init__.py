"""Norm-activation layers: EvoNorm and the layers that it is compared with.

The package depends on jax and flax alone.
"""

from evonorm_jax.layers.base import BatchDependentLayer, FusedLayer, GroupLayer, NormActLayer
from evonorm_jax.layers.baselines import (
    BatchInstanceNormReLU,
    BatchNormReLU,
    BatchNormReLU6,
    BatchNormSiLU,
    BatchNormSwish,
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
from evonorm_jax.layers.conditional import ConditionalNormAct
from evonorm_jax.layers.evonorm import (
    EvoNormB0,
    EvoNormB1,
    EvoNormB2,
    EvoNormS0,
    EvoNormS1,
    EvoNormS2,
)

__all__ = [
    "BatchDependentLayer",
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
    "FusedLayer",
    "GroupLayer",
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
]
