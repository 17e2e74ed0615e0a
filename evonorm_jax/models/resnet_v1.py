"""Post-activation residual networks, ResNet v1.5: the usual home of BatchNorm and GroupNorm.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), with the
stride of a bottleneck on its 3x3 convolution ("v1.5") and the last scale of every block initialised
to zero (Goyal et al., arXiv:1706.02677, section 5.1), as in the EvoNorm authors' TensorFlow code.
The shape of the network is PyTorch's: it projects only where the shape changes, so resnet50_v1 with
BatchNorm has torchvision's 25,557,032 parameters. The authors project in the first block of every
stage, which makes a difference for resnet18 and 34 alone.

The last layer of a block and the one on its shortcut normalise without activating
(`nonlinearity=False`); the activation follows the addition. A layer that fuses the two, such as
EvoNorm, is a plain affine transform there: the network would not normalise its residual branches,
and the layer offers no activation to put after the addition. The network refuses such a layer, as
the authors' code does. `residual_norm="affine"` accepts it, with ReLU after the addition. The
Mask R-CNN of the EvoNorm paper was such a network: its parameter counts (Table 4 of
arXiv:2004.02967v1) have `v` only where an activation follows. The ReLU after the addition is our
reading; no count shows it.

With `num_classes=None` the network is a backbone and returns the output of every stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.models.classifier import check_images, check_stage_sizes, classifier_head
from evonorm_jax.models.convolution import conv2d, max_pool
from evonorm_jax.models.rematerialize import rematerialize
from evonorm_jax.models.resnet import (
    ConvFactory,
    FeatureMaps,
    NormActFactory,
    check_resnet_fields,
    first_conv_name,
    first_level,
    project_shortcut,
    stem_convs,
)
from evonorm_jax.norm_act import activation_of, fuses_activation

RESIDUAL_NORMS = ("norm", "affine")


class BasicBlockV1(nn.Module):
    """3x3, layer, 3x3, norm, add, activation; the output has `num_filters` channels.

    Attributes:
      num_filters: Number of channels of both convolutions.
      conv: Factory of convolutions, with the compute dtype bound.
      norm_act: Factory of norm-activation layers, with mode and compute dtype bound.
      strides: Strides of the first 3x3 convolution and of the projection.
      use_projection: Whether the shortcut has a 1x1 convolution and a norm, which it needs where
        the shape changes.
      avg_down: Whether an average pool before the projection has the strides of the shortcut.
    """

    num_filters: int
    conv: ConvFactory
    norm_act: NormActFactory
    strides: int = 1
    use_projection: bool = False
    avg_down: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = functools.partial(self.norm_act, nonlinearity=False)
        shortcut = x
        if self.use_projection:
            shortcut = project_shortcut(self, x, self.num_filters)
            shortcut = norm(name="shortcut_norm")(shortcut)
        y = self.conv(self.num_filters, 3, self.strides, name="conv1")(x)
        y = self.norm_act(name="norm1")(y)
        y = self.conv(self.num_filters, 3, name="conv2")(y)
        # Zero scale: every block starts as the identity.
        y = norm(scale_init=nn.initializers.zeros, name="norm2")(y)
        return sum_activation(self.norm_act)(shortcut + y)


class BottleneckBlockV1(nn.Module):
    """1x1, layer, 3x3, layer, 1x1, norm, add, activation; the output has 4 * num_filters channels.

    The attributes are those of `BasicBlockV1`, but the 3x3 convolution has the strides.
    """

    num_filters: int
    conv: ConvFactory
    norm_act: NormActFactory
    strides: int = 1
    use_projection: bool = False
    avg_down: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = functools.partial(self.norm_act, nonlinearity=False)
        shortcut = x
        if self.use_projection:
            shortcut = project_shortcut(self, x, 4 * self.num_filters)
            shortcut = norm(name="shortcut_norm")(shortcut)
        y = self.conv(self.num_filters, 1, name="conv1")(x)
        y = self.norm_act(name="norm1")(y)
        y = self.conv(self.num_filters, 3, self.strides, name="conv2")(y)
        y = self.norm_act(name="norm2")(y)
        y = self.conv(4 * self.num_filters, 1, name="conv3")(y)
        y = norm(scale_init=nn.initializers.zeros, name="norm3")(y)
        return sum_activation(self.norm_act)(shortcut + y)


class ResNetV1(nn.Module):
    """Post-activation ResNet for images `[N, H, W, C]`, with float32 logits `[N, num_classes]`.

    The other fields, the names of the parameters and the other errors are those of
    `evonorm_jax.models.resnet.ResNet`, but the stem has a layer, `stem_norm`, and there is none
    before the head or on a backbone's maps.

    Attributes:
      residual_norm: Kind of the layers that no activation follows: "norm", or "affine" to accept
        layers that fuse normalisation and activation (see the module docstring).

    Raises:
      UserError: `norm_act` fuses normalisation and activation while `residual_norm` is "norm", or
        its activation has parameters (`frn`, `bn_swish`, `gn_swish`).

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.norm_act import norm_act
    >>> model = ResNetV1((1, 1), num_classes=10, norm_act=norm_act("gn_relu"), num_filters=8)
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sorted(variables["params"])
    ['head', 'stage1_block1', 'stage2_block1', 'stem_conv', 'stem_norm']
    """

    stage_sizes: Sequence[int]
    num_classes: int | None
    norm_act: NormActFactory
    bottleneck: bool = True
    num_filters: int = 64
    stem: str = "imagenet"
    avg_down: bool = False
    dropout_rate: float = 0.0
    remat: bool = False
    residual_norm: str = "norm"
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_stage_sizes(self.stage_sizes)
        self.stage_sizes = tuple(self.stage_sizes)
        check_resnet_fields(self)
        check_residual_norm(self.norm_act, self.residual_norm)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> jax.Array | FeatureMaps:
        check_images(images, self.get_variable("params", first_conv_name(self.stem)))
        conv = functools.partial(conv2d, dtype=self.dtype)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        block = rematerialize(BottleneckBlockV1 if self.bottleneck else BasicBlockV1, self.remat)
        expansion = 4 if self.bottleneck else 1

        x = stem_convs(images, self.stem, self.num_filters, conv=conv, norm_act=norm_act)
        x = norm_act(name="stem_norm")(x)
        if self.stem != "cifar":
            x = max_pool(x, window=3, strides=2)

        maps: FeatureMaps = {}
        for stage, num_blocks in enumerate(self.stage_sizes):
            num_filters = self.num_filters * 2**stage
            for index in range(num_blocks):
                strides = 2 if stage > 0 and index == 0 else 1
                x = block(
                    num_filters,
                    conv=conv,
                    norm_act=norm_act,
                    strides=strides,
                    use_projection=strides != 1 or x.shape[-1] != expansion * num_filters,
                    avg_down=self.avg_down,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)
            maps[first_level(self.stem) + stage] = x

        if self.num_classes is None:
            return maps
        return classifier_head(
            x,
            num_classes=self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            features=features,
        )


def sum_activation(norm_act: NormActFactory) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation after the addition: the layer's, or ReLU for a layer that fuses it."""
    return nn.relu if fuses_activation(norm_act) else activation_of(norm_act)


def check_residual_norm(norm_act: NormActFactory, residual_norm: str) -> None:
    """Raises `UserError` if the layer cannot stand where no activation follows."""
    if residual_norm not in RESIDUAL_NORMS:
        raise UserError(
            f"residual_norm={residual_norm!r}: expected one of {', '.join(RESIDUAL_NORMS)}."
        )
    if residual_norm == "norm" and fuses_activation(norm_act):
        layer = norm_act.func if isinstance(norm_act, functools.partial) else norm_act
        raise UserError(
            f"{layer.__name__} fuses normalisation and activation, which a post-activation "
            "residual network (a model name ending in _v1) has to separate: "
            "take the pre-activation network of the same depth, such as resnet50."
        )
    sum_activation(norm_act)  # raises for an activation with parameters: FRN, the learned Swish


ResNet18V1 = functools.partial(ResNetV1, stage_sizes=(2, 2, 2, 2), bottleneck=False)
ResNet34V1 = functools.partial(ResNetV1, stage_sizes=(3, 4, 6, 3), bottleneck=False)
ResNet50V1 = functools.partial(ResNetV1, stage_sizes=(3, 4, 6, 3))
ResNet101V1 = functools.partial(ResNetV1, stage_sizes=(3, 4, 23, 3))
ResNet152V1 = functools.partial(ResNetV1, stage_sizes=(3, 8, 36, 3))
