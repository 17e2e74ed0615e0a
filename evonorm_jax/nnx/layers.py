"""The layers as NNX modules; `evonorm_jax.layers.definitions` has their formulas.

The arguments of every class are `num_features`, then by name the fields of its definition and those
of `NormActLayer`.
"""

from evonorm_jax.layers.definitions import baselines, evonorm
from evonorm_jax.nnx.base import NormActLayer


class EvoNormB0(evonorm.EvoNormB0, NormActLayer): ...


class EvoNormB1(evonorm.EvoNormB1, NormActLayer): ...


class EvoNormB2(evonorm.EvoNormB2, NormActLayer): ...


class EvoNormS0(evonorm.EvoNormS0, NormActLayer): ...


class EvoNormS1(evonorm.EvoNormS1, NormActLayer): ...


class EvoNormS2(evonorm.EvoNormS2, NormActLayer): ...


class BatchNormReLU(baselines.BatchNormReLU, NormActLayer): ...


class BatchNormReLU6(baselines.BatchNormReLU6, NormActLayer): ...


class BatchNormSiLU(baselines.BatchNormSiLU, NormActLayer): ...


class BatchNormSwish(baselines.BatchNormSwish, NormActLayer): ...


class GroupNormReLU(baselines.GroupNormReLU, NormActLayer): ...


class GroupNormSiLU(baselines.GroupNormSiLU, NormActLayer): ...


class GroupNormSwish(baselines.GroupNormSwish, NormActLayer): ...


class LayerNormReLU(baselines.LayerNormReLU, NormActLayer): ...


class InstanceNormReLU(baselines.InstanceNormReLU, NormActLayer): ...


class PixelNormReLU(baselines.PixelNormReLU, NormActLayer): ...


class FilterResponseNorm(baselines.FilterResponseNorm, NormActLayer): ...


class BatchInstanceNormReLU(baselines.BatchInstanceNormReLU, NormActLayer): ...


class SwitchableNormReLU(baselines.SwitchableNormReLU, NormActLayer): ...


class RandomLayer(baselines.RandomLayer, NormActLayer): ...


class RandomRejectionLayer(baselines.RandomRejectionLayer, NormActLayer): ...


class RandomSearchRejectionLayer(baselines.RandomSearchRejectionLayer, NormActLayer): ...
