"""The layers that EvoNorm is compared with, as Linen modules with the same fields.

`evonorm_jax.layers.definitions.baselines` has the formulas.
"""

from evonorm_jax.layers.base import NormActLayer
from evonorm_jax.layers.definitions import baselines as definitions


class BatchNormReLU(definitions.BatchNormReLU, NormActLayer): ...


class BatchNormReLU6(definitions.BatchNormReLU6, NormActLayer): ...


class BatchNormSiLU(definitions.BatchNormSiLU, NormActLayer): ...


class BatchNormSwish(definitions.BatchNormSwish, NormActLayer): ...


class GroupNormReLU(definitions.GroupNormReLU, NormActLayer): ...


class GroupNormSiLU(definitions.GroupNormSiLU, NormActLayer): ...


class GroupNormSwish(definitions.GroupNormSwish, NormActLayer): ...


class LayerNormReLU(definitions.LayerNormReLU, NormActLayer): ...


class InstanceNormReLU(definitions.InstanceNormReLU, NormActLayer): ...


class PixelNormReLU(definitions.PixelNormReLU, NormActLayer): ...


class FilterResponseNorm(definitions.FilterResponseNorm, NormActLayer): ...


class BatchInstanceNormReLU(definitions.BatchInstanceNormReLU, NormActLayer): ...


class SwitchableNormReLU(definitions.SwitchableNormReLU, NormActLayer): ...


class RandomLayer(definitions.RandomLayer, NormActLayer): ...


class RandomRejectionLayer(definitions.RandomRejectionLayer, NormActLayer): ...


class RandomSearchRejectionLayer(definitions.RandomSearchRejectionLayer, NormActLayer): ...
