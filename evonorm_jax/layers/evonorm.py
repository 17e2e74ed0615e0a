"""EvoNorm as Linen modules; `evonorm_jax.layers.definitions.evonorm` has the formulas.

>>> import jax
>>> from evonorm_jax import EvoNormB0, EvoNormS0
>>> x = jax.random.normal(jax.random.key(0), (8, 4, 4, 64))
>>> layer = EvoNormS0()
>>> variables = layer.init(jax.random.key(1), x)
>>> layer.apply(variables, x).shape
(8, 4, 4, 64)

A B layer has running statistics and must be told whether it trains:

>>> layer = EvoNormB0()
>>> variables = layer.init(jax.random.key(1), x, use_running_average=False)
>>> y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
>>> y = layer.apply(variables | updates, x, use_running_average=True)
"""

from evonorm_jax.layers.base import NormActLayer
from evonorm_jax.layers.definitions import evonorm as definitions


class EvoNormB0(definitions.EvoNormB0, NormActLayer): ...


class EvoNormB1(definitions.EvoNormB1, NormActLayer): ...


class EvoNormB2(definitions.EvoNormB2, NormActLayer): ...


class EvoNormS0(definitions.EvoNormS0, NormActLayer): ...


class EvoNormS1(definitions.EvoNormS1, NormActLayer): ...


class EvoNormS2(definitions.EvoNormS2, NormActLayer): ...
