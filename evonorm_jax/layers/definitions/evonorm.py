"""EvoNorm: the layers that evolution found (Liu, Brock, Simonyan, Le, NeurIPS 2020).

In these formulas s2 is a centred variance, mu a mean, and the letters after them are the axes that
they are taken over (b batch, w and h map, c/g group of channels); sigma is the sigmoid, and the
affine map is left out:

    B0   x / max(sqrt(s2_bwh(x)), v x + sqrt(s2_wh(x)))
    B1   x / max(sqrt(s2_bwh(x)), (x + 1) sqrt(mu_wh(x^2)))
    B2   x / max(sqrt(s2_bwh(x)), sqrt(mu_wh(x^2)) - x)
    S0   x sigma(v x) / sqrt(s2_whc/g(x))
    S1   x sigma(x)   / sqrt(s2_whc/g(x))
    S2   x sigma(x)   / sqrt(mu_whc/g(x^2))

Source: Tables 2 and 3 of arXiv:2004.02967v1. x is never centred. The B layers depend on the batch,
as BatchNorm does, and like BatchNorm they suffer when the batch is small. The S layers look at one
image alone.

The defaults are those of the authors' TensorFlow code (tensorflow/tpu, resnet_model.py): epsilon
1e-5, momentum 0.9, 32 groups lowered until they divide the channels, biased variances, only the
variance tracked, and `nonlinearity=False` is the affine map. The deliberate differences are:

* their code holds B0 and S0 alone; the other layers follow the paper's formulas;
* statistics and arithmetic are float32 here for every input dtype;
* `group_size`, `virtual_batch_size`, `axis_name` and `axis_index_groups` are additions; the batch
  statistics of their code are always those of one core.

The layers of timm (layers/evo_norm.py) differ from these: epsilon is 1e-3 in B0, the running
variance is unbiased, a group count that does not divide the channels is an error, and S1 and S2
take other activations. timm's S0a, S1a and S2a, which still divide when the activation is off, have
no counterpart here.
"""

from typing import ClassVar

import jax
from flax.typing import Initializer
from jax.nn import initializers

from evonorm_jax import kernels
from evonorm_jax.kernels.implementations import WITH_SHORTCUT
from evonorm_jax.layers.definitions.base import (
    Arrays,
    BatchDependentLayer,
    BatchStatistics,
    FusedLayer,
    GroupLayer,
    Parameter,
    definition,
)


@definition
class EvoNormB0(FusedLayer, BatchDependentLayer):
    """`x / max(sqrt(s2_bwh(x)), v x + sqrt(s2_wh(x)))`, the batch-dependent layer to use.

    With epsilon negligible, training is invariant to a positive rescaling of `x`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = initializers.ones

    fuses_activation: ClassVar[bool] = True
    tracked: ClassVar[tuple[str, ...]] = ("var",)

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        return {"v": Parameter(self.v_init, (num_channels,))}

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return self._run_batch_kernels(
            kernels.evonorm_b0,
            kernels.evonorm_b0_inference,
            x,
            statistics,
            **params,
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class EvoNormB1(FusedLayer, BatchDependentLayer):
    """`x / max(sqrt(s2_bwh(x)), (x + 1) sqrt(mu_wh(x^2)))`."""

    fuses_activation: ClassVar[bool] = True
    tracked: ClassVar[tuple[str, ...]] = ("var",)

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return self._run_batch_kernels(
            kernels.evonorm_b1,
            kernels.evonorm_b1_inference,
            x,
            statistics,
            **params,
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class EvoNormB2(FusedLayer, BatchDependentLayer):
    """`x / max(sqrt(s2_bwh(x)), sqrt(mu_wh(x^2)) - x)`."""

    fuses_activation: ClassVar[bool] = True
    tracked: ClassVar[tuple[str, ...]] = ("var",)

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return self._run_batch_kernels(
            kernels.evonorm_b2,
            kernels.evonorm_b2_inference,
            x,
            statistics,
            **params,
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class EvoNormS0(FusedLayer, GroupLayer):
    """`x sigma(v x) / sqrt(s2_whc/g(x))`, the batch-independent layer to use.

    On NVIDIA Hopper GPUs a hand-written kernel computes it, for the shapes that the kernel can
    take, on one device or inside `pmap` or `shard_map`. Under `jit` with sharded arrays, and
    everywhere else, the implementation is "xla". `implementation="pallas"` asks for the kernel, and
    the log says why where it is not taken; "pallas_interpret" runs the kernel's program on any
    device. With "pallas_shortcut" and the call `y, shortcut = layer(x, with_shortcut=True)` the
    kernel also adds the gradient of the shortcut. See `evonorm_jax.kernels.evonorm`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = initializers.ones

    fuses_activation: ClassVar[bool] = True

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        return {"v": Parameter(self.v_init, (num_channels,))}

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return kernels.evonorm_s0(
            x,
            **params,
            num_groups=self._resolve_num_groups(x.shape[-1]),
            epsilon=self.epsilon,
            implementation=self.implementation,
        )

    @property
    def adds_shortcut(self) -> bool:
        return self.implementation in WITH_SHORTCUT and not self._is_affine

    def _transform_with_shortcut(
        self, x: jax.Array, params: Arrays, statistics: BatchStatistics
    ) -> tuple[jax.Array, jax.Array]:
        return kernels.evonorm_s0_with_shortcut(
            x,
            **params,
            num_groups=self._resolve_num_groups(x.shape[-1]),
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class EvoNormS1(FusedLayer, GroupLayer):
    """`x sigma(x) / sqrt(s2_whc/g(x))`: S0 with v fixed at 1."""

    fuses_activation: ClassVar[bool] = True

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return kernels.evonorm_s1(
            x,
            **params,
            num_groups=self._resolve_num_groups(x.shape[-1]),
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class EvoNormS2(FusedLayer, GroupLayer):
    """`x sigma(x) / sqrt(mu_whc/g(x^2))`: S1 with the uncentred second moment."""

    fuses_activation: ClassVar[bool] = True

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return kernels.evonorm_s2(
            x,
            **params,
            num_groups=self._resolve_num_groups(x.shape[-1]),
            epsilon=self.epsilon,
            implementation=self.implementation,
        )
