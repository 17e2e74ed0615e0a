"""Norm-activation layers: EvoNorm and the layers that it is compared with, as Linen modules.

The package depends on jax and flax alone. Each layer is defined once, in `definitions/`; a layer of
your own is a subclass of one of the four classes of definitions that stand here and of
`NormActLayer`:

>>> import jax
>>> class Tanh(LayerDefinition):
...     def _normalize(self, x, params, statistics):
...         return jax.numpy.tanh(x)
>>> class TanhLayer(Tanh, NormActLayer):
...     pass
>>> y, variables = TanhLayer().init_with_output(jax.random.key(0), jax.numpy.ones((1, 2, 2, 3)))
>>> sorted(variables["params"]), round(float(y[0, 0, 0, 0]), 4)
(['bias', 'scale'], 0.7616)
"""

from evonorm_jax.layers.base import NormActLayer
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
from evonorm_jax.layers.definitions.base import (
    BatchDependentLayer,
    FusedLayer,
    GroupLayer,
    LayerDefinition,
)
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
    "LayerDefinition",
    "LayerNormReLU",
    "NormActLayer",
    "PixelNormReLU",
    "RandomLayer",
    "RandomRejectionLayer",
    "RandomSearchRejectionLayer",
    "SwitchableNormReLU",
]
