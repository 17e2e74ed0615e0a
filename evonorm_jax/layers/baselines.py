"""The layers that EvoNorm is compared with, with the same fields.

In these formulas z is normalize(x) * scale + bias, s2 is a centred variance, mu a mean, and the
letters after them are the axes that they are taken over, as in `evonorm_jax.layers.evonorm`:

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
from flax import linen as nn
from flax.typing import Initializer
from jax import lax

from evonorm_jax import kernels
from evonorm_jax.kernels import moments
from evonorm_jax.layers.base import BatchDependentLayer, FusedLayer, GroupLayer, NormActLayer

#: The running statistics of the layers that centre by the batch.
MEAN_AND_VAR = ("mean", "var")


def _activation(layer: FusedLayer, x: jax.Array) -> dict[str, Any]:
    """Returns the activation as arguments of a kernel: its name, and the parameter v of Swish."""
    if not layer.nonlinearity:
        return {"activation": "identity"}
    if isinstance(layer, BatchNormSwish | GroupNormSwish):
        return {"activation": "swish", "v": layer.channel_param("v", layer.v_init, x)}
    return {"activation": layer.activation}


# The `transform` of all layers with one normalisation, which differ in the activation alone.


def _batch_norm(
    self: Any, x: jax.Array, scale: jax.Array, bias: jax.Array, use_running_average: bool | None
) -> jax.Array:
    return self.run_batch_kernels(
        kernels.batch_norm,
        kernels.batch_norm_inference,
        x,
        use_running_average,
        scale=scale,
        bias=bias,
        epsilon=self.epsilon,
        implementation=self.implementation,
        **_activation(self, x),
    )


def _group_norm(
    self: Any, x: jax.Array, scale: jax.Array, bias: jax.Array, use_running_average: bool | None
) -> jax.Array:
    return kernels.group_norm(
        x,
        scale,
        bias,
        num_groups=self.resolve_num_groups(x),
        epsilon=self.epsilon,
        implementation=self.implementation,
        **_activation(self, x),
    )


class BatchNormReLU(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    transform = _batch_norm


class BatchNormReLU6(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `min(max(z, 0), 6)`, the layer of the published MobileNetV2."""

    activation: ClassVar[str] = "relu6"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    transform = _batch_norm


class BatchNormSiLU(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `z sigma(z)`."""

    activation: ClassVar[str] = "silu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    transform = _batch_norm


class BatchNormSwish(FusedLayer, BatchDependentLayer):
    """Batch normalisation, then `z sigma(v z)`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = nn.initializers.ones

    activation: ClassVar[str] = "swish"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR
    transform = _batch_norm


class GroupNormReLU(GroupLayer, FusedLayer):
    """Group normalisation, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    transform = _group_norm


class GroupNormSiLU(GroupLayer, FusedLayer):
    """Group normalisation, then `z sigma(z)`."""

    activation: ClassVar[str] = "silu"
    transform = _group_norm


class GroupNormSwish(GroupLayer, FusedLayer):
    """Group normalisation, then `z sigma(v z)`.

    Attributes:
      v_init: Initializer of the parameter `v`, `(C,)`.
    """

    v_init: Initializer = nn.initializers.ones

    activation: ClassVar[str] = "swish"
    transform = _group_norm


class LayerNormReLU(FusedLayer):
    """Normalisation of each image over (w, h, c), then `max(z, 0)`.

    The affine map has one scale and bias per channel.
    """

    activation: ClassVar[str] = "relu"
    transform = _group_norm

    def resolve_num_groups(self, x: jax.Array) -> int:
        """Returns 1: all channels are one group."""
        return 1


class InstanceNormReLU(FusedLayer):
    """Normalisation of each map over (w, h), then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"
    transform = _group_norm

    def resolve_num_groups(self, x: jax.Array) -> int:
        """Returns the number of channels: each is a group."""
        return x.shape[-1]


class PixelNormReLU(NormActLayer):
    """Division of every pixel by the root mean square of its channels, then `max(z, 0)`."""

    activation: ClassVar[str] = "relu"

    def normalize(self, x: jax.Array) -> jax.Array:
        return x / self.std(moments.pixel_mean_square(x))


class FilterResponseNorm(FusedLayer):
    """Filter response normalisation with its thresholded linear unit, `max(z, threshold)`.

    Attributes:
      threshold_init: Initializer of the parameter `threshold`, `(C,)`. It is called v0 in the
        EvoNorm paper and tau in that of FRN.
    """

    threshold_init: Initializer = nn.initializers.zeros

    def transform(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, use_running_average: bool | None
    ) -> jax.Array:
        threshold = None
        if self.nonlinearity:
            threshold = self.channel_param("threshold", self.threshold_init, x)
        return kernels.filter_response_norm(
            x,
            scale,
            bias,
            threshold,
            epsilon=self.epsilon,
            implementation=self.implementation,
        )


class BatchInstanceNormReLU(BatchDependentLayer):
    """A learned mixture of batch and instance normalisation, then `max(z, 0)`.

    Attributes:
      gate_init: Initializer of the parameter `gate`, `(C,)`, the share of batch normalisation.
    """

    gate_init: Initializer = nn.initializers.ones

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR

    def normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        raw_gate = self.channel_param("gate", self.gate_init, x).astype(x.dtype)[None, None, None]
        # The source clips the parameter to [0, 1] after each update, which an optimizer cannot
        # know of here. The gradient passes the clip straight through: with its own, 0 outside,
        # a gate that has left the interval would never return.
        gate = raw_gate + lax.stop_gradient(jnp.clip(raw_gate, 0, 1) - raw_gate)
        instance = self.standardize(x, *moments.instance_moments(x))
        return gate * self.standardize(x, mean, var) + (1 - gate) * instance


class SwitchableNormReLU(BatchDependentLayer):
    """Normalisation by a learned mixture of three moments, then `max(z, 0)`.

    Attributes:
      mixture_init: Initializer of the parameters `mean_mixture` and `var_mixture`, `(3,)` each,
        the logits of the instance, layer and batch moments.
    """

    mixture_init: Initializer = nn.initializers.ones

    activation: ClassVar[str] = "relu"
    tracked: ClassVar[tuple[str, ...]] = MEAN_AND_VAR

    def normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        instance, layer = moments.instance_moments(x), moments.layer_moments(x)
        mean = self._mix("mean_mixture", instance.mean, layer.mean, mean)
        var = self._mix("var_mixture", instance.var, layer.var, var)
        return self.standardize(x, mean, var)

    def _mix(self, name: str, *statistics: jax.Array) -> jax.Array:
        logits = self.param(name, self.mixture_init, (len(statistics),), self.param_dtype)
        weights = nn.softmax(logits.astype(statistics[0].dtype))
        mixture = jnp.zeros_like(statistics[0])
        for weight, statistic in zip(weights, statistics, strict=True):
            mixture = mixture + weight * statistic
        return mixture


class RandomLayer(NormActLayer):
    """`sign(z) sqrt(|z|)` with `z = sqrt(s2_wh(sigma(|x|)))`: the paper's random layer.

    z is positive, so the layer computes `sqrt(z)`. The output is the same at every place in the
    map.
    """

    fuses_activation: ClassVar[bool] = True

    def normalize(self, x: jax.Array) -> jax.Array:
        z = self.std(moments.instance_moments(nn.sigmoid(jnp.abs(x))).var)
        return jnp.broadcast_to(jnp.sqrt(z), x.shape)


class RandomRejectionLayer(NormActLayer):
    """`tanh(max(x, tanh(x)))`: the paper's random layer that passed the rejection tests."""

    fuses_activation: ClassVar[bool] = True

    def normalize(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.maximum(x, jnp.tanh(x)))


class RandomSearchRejectionLayer(BatchDependentLayer):
    """`max(x, 0) / sqrt(mu_bwh(x^2))`: the best of random search with rejection."""

    fuses_activation: ClassVar[bool] = True
    tracked: ClassVar[tuple[str, ...]] = ("mean_square",)

    def normalize(self, x: jax.Array, mean_square: jax.Array) -> jax.Array:
        return nn.relu(x) / self.std(mean_square)
