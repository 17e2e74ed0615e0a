"""The layers that EvoNorm is compared with, with the same fields.

In these formulas z is normalize(x) * scale + bias, s2 is a centred variance, mu a mean, and the
letters after them are the axes that they are taken over, as in `evonorm.py`:

    BatchNorm-*          (x - mu_bwh) / sqrt(s2_bwh)
    GroupNorm-*          (x - mu_whc/g) / sqrt(s2_whc/g)
    LayerNorm-ReLU       (x - mu_whc) / sqrt(s2_whc)
    InstanceNorm-ReLU    (x - mu_wh) / sqrt(s2_wh)
    PixelNorm-ReLU       x / sqrt(mu_c(x^2))                     Karras et al. 2018
    FRN                  x / sqrt(mu_wh(x^2)), then max(z, t)    Singh and Krishnan 2020
    Batch-Instance-ReLU  g BatchNorm + (1 - g) InstanceNorm      Nam and Kim 2018
    Switchable-ReLU      softmax mixture of the moments over wh, whc and bwh   Luo et al. 2019
    *-ReLU, *-SiLU, *-Swish   max(z, 0), z sigma(z), z sigma(v z) with learnable v
    BatchNorm-ReLU6      min(max(z, 0), 6)                       Sandler et al. 2018

The layers of the paper's random searches have an activation that cannot be taken apart:

    Random               sqrt(sqrt(s2_wh(sigma(|x|))))
    Random + rejection   tanh(max(x, tanh(x)))
    Random search + rejection   max(x, 0) / sqrt(mu_bwh(x^2))

Source: Tables 2, 3 and 5 of arXiv:2004.02967v1; BatchNorm-SiLU is "BN-Swish-1" there. With
`nonlinearity=False` the last three are the affine map alone; all others are the normalisation
without the activation.

Deliberate differences from the sources: epsilon is 1e-5, inside the root, and variances are biased
everywhere (FRN has 1e-6, PixelNorm 1e-8; Switchable Norm has an unbiased instance variance);
PixelNorm has the affine map; FRN has no learned epsilon for 1x1 maps; and the gate of
Batch-Instance Norm is clipped where it is used rather than after each update.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax import lax
from jax.nn import initializers

from evonorm_jax import kernels
from evonorm_jax.kernels import moments
from evonorm_jax.layers.definitions.base import (
    Arrays,
    BatchDependentLayer,
    BatchStatistics,
    FusedLayer,
    GroupLayer,
    LayerDefinition,
    Parameter,
    definition,
)

#: The running statistics of the layers that centre by the batch.
MEAN_AND_VAR = ("mean", "var")


# The `_transform` of all layers with one normalisation, which differ in the activation alone.


def _activation(layer: LayerDefinition) -> str:
    return layer.activation if layer.nonlinearity else "identity"


def _batch_norm(self: Any, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
    return self._run_batch_kernels(
        kernels.batch_norm,
        kernels.batch_norm_inference,
        x,
        statistics,
        **params,
        activation=_activation(self),
        epsilon=self.epsilon,
        implementation=self.implementation,
    )


def _group_norm(self: Any, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
    del statistics
    return kernels.group_norm(
        x,
        **params,
        num_groups=self._resolve_num_groups(x.shape[-1]),
        activation=_activation(self),
        epsilon=self.epsilon,
        implementation=self.implementation,
    )


def _steepness(self: Any, num_channels: int) -> dict[str, Parameter]:
    """The `_own_parameters` of a layer that ends in Swish."""
    return {"v": Parameter(self.v_init, (num_channels,))} if self.nonlinearity else {}


@definition
class BatchNormReLU(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    _transform = _batch_norm


@definition
class BatchNormReLU6(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `min(max(z, 0), 6)`, the layer of the published MobileNetV2."""

    activation: ClassVar[str] = "relu6"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    _transform = _batch_norm


@definition
class BatchNormSiLU(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `z sigma(z)`."""

    activation: ClassVar[str] = "silu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    _transform = _batch_norm


@definition
class BatchNormSwish(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `z sigma(v z)`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = initializers.ones

    activation: ClassVar[str] = "swish"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    _own_parameters = _steepness
    _transform = _batch_norm


@definition
class GroupNormReLU(GroupLayer, FusedLayer):
    """Group normalisation, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    _transform = _group_norm


@definition
class GroupNormSiLU(GroupLayer, FusedLayer):
    """Group normalisation, then `z sigma(z)`."""

    activation: ClassVar[str] = "silu"
    _transform = _group_norm


@definition
class GroupNormSwish(GroupLayer, FusedLayer):
    """Group normalisation, then `z sigma(v z)`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = initializers.ones

    activation: ClassVar[str] = "swish"
    _own_parameters = _steepness
    _transform = _group_norm


@definition
class LayerNormReLU(FusedLayer):
    """Normalisation of each image over (w, h, c), then `max(z, 0)`.

    The affine map has one scale and bias per channel.
    """

    activation: ClassVar[str] = "relu"
    _transform = _group_norm

    def _resolve_num_groups(self, num_channels: int) -> int:
        """Returns 1: all channels are one group."""
        del num_channels
        return 1


@definition
class InstanceNormReLU(FusedLayer):
    """Normalisation of each map over (w, h), then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    _transform = _group_norm

    def _resolve_num_groups(self, num_channels: int) -> int:
        """Returns the number of channels: each is a group."""
        return num_channels


@definition
class PixelNormReLU(LayerDefinition):
    """Division of every pixel by the root mean square of its channels, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return x / self._std(moments.pixel_mean_square(x))


@definition
class FilterResponseNorm(FusedLayer):
    """Filter response normalisation with its thresholded linear unit, `max(z, threshold)`.

    Attributes:
      threshold_init: Initializer of the parameter `threshold`, `(C,)`. It is called v0 in the
        EvoNorm paper and tau in that of FRN.
    """

    threshold_init: Initializer = initializers.zeros

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        if not self.nonlinearity:
            return {}
        return {"threshold": Parameter(self.threshold_init, (num_channels,))}

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return kernels.filter_response_norm(
            x,
            params["scale"],
            params["bias"],
            params.get("threshold"),
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


@definition
class BatchInstanceNormReLU(BatchDependentLayer):
    """A learned mixture of batch and instance normalisation, then `max(z, 0)`.

    Attributes:
      gate_init: Initializer of the parameter `gate`, `(C,)`, the share of batch normalisation.
    """

    gate_init: Initializer = initializers.ones

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        return {"gate": Parameter(self.gate_init, (num_channels,))}

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        raw_gate = params["gate"].astype(x.dtype).reshape(1, 1, 1, -1)
        # The source clips the parameter to [0, 1] after each update, which an optimizer cannot
        # know of here. The gradient passes the clip straight through: with its own, 0 outside,
        # a gate that has left the interval would never return.
        gate = raw_gate + lax.stop_gradient(jnp.clip(raw_gate, 0, 1) - raw_gate)
        batch = self._standardize(x, **self._batch_statistics(x, statistics))
        instance = self._standardize(x, *moments.instance_moments(x))
        return gate * batch + (1 - gate) * instance


@definition
class SwitchableNormReLU(BatchDependentLayer):
    """Normalisation by a learned mixture of three moments, then `max(z, 0)`.

    Attributes:
      mixture_init: Initializer of the parameters `mean_mixture` and `var_mixture`, `(3,)` each,
        the logits of the instance, layer and batch moments.
    """

    mixture_init: Initializer = initializers.ones

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        mixture = Parameter(self.mixture_init, (3,))
        return {"mean_mixture": mixture, "var_mixture": mixture}

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        instance, layer = moments.instance_moments(x), moments.layer_moments(x)
        batch = self._batch_statistics(x, statistics)
        mean = _mix(params["mean_mixture"], instance.mean, layer.mean, batch["mean"])
        var = _mix(params["var_mixture"], instance.var, layer.var, batch["var"])
        return self._standardize(x, mean, var)


def _mix(logits: jax.Array, *statistics: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(logits.astype(statistics[0].dtype))
    mixture = jnp.zeros_like(statistics[0])
    for weight, statistic in zip(weights, statistics, strict=True):
        mixture = mixture + weight * statistic
    return mixture


@definition
class RandomLayer(LayerDefinition):
    """`sign(z) sqrt(|z|)` with `z = sqrt(s2_wh(sigma(|x|)))`: the paper's random layer.

    z is positive, so the layer computes `sqrt(z)`. The output is the same at every place in the
    map.
    """

    fuses_activation: ClassVar[bool] = True

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        z = self._std(moments.instance_moments(jax.nn.sigmoid(jnp.abs(x))).var)
        return jnp.broadcast_to(jnp.sqrt(z), x.shape)


@definition
class RandomRejectionLayer(LayerDefinition):
    """`tanh(max(x, tanh(x)))`: the paper's random layer that passed the rejection tests."""

    fuses_activation: ClassVar[bool] = True

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return jnp.tanh(jnp.maximum(x, jnp.tanh(x)))


@definition
class RandomSearchRejectionLayer(BatchDependentLayer):
    """`max(x, 0) / sqrt(mu_bwh(x^2))`: the best of random search with rejection."""

    fuses_activation: ClassVar[bool] = True
    tracked: ClassVar[tuple[str, ...]] = ("mean_square",)

    def _normalize(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        return jax.nn.relu(x) / self._std(self._batch_statistics(x, statistics)["mean_square"])
