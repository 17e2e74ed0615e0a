"""The parts that MobileNetV2, MnasNet and EfficientNet share: the block and the network around it.

The block is that of Sandler et al., arXiv:1801.04381: a 1x1 convolution widens, a depthwise one
mixes pixels, a 1x1 one narrows again, and the sum runs between the narrow ends. A layer follows
each convolution. The narrow end is a linear bottleneck: the layer there stands without its
nonlinearity (for EvoNorm this is its affine map alone). The networks differ in their table of
stages and in the parts around the stages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from evonorm_jax.errors import UserError
from evonorm_jax.models.classifier import (
    check_bool,
    check_dropout_rate,
    check_images,
    check_initializer,
    check_num_classes,
    check_positive,
    check_stage_sizes,
    check_survival_probability,
    classifier_head,
)
from evonorm_jax.models.convolution import check_padding, conv2d, mobile_kernel_init
from evonorm_jax.models.depthwise import DepthwiseConv
from evonorm_jax.models.rematerialize import rematerialize
from evonorm_jax.models.resnet import STEM_CONVS, ConvFactory, NormActFactory
from evonorm_jax.models.squeeze_excite import SqueezeExcite, gate_activation
from evonorm_jax.models.stochastic_depth import linear_survival, stochastic_depth

# As in the TPU code: uniform within 1 / sqrt(num_classes).
_HEAD_INIT = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Stage(NamedTuple):
    """A sequence of blocks of one shape, the first of which has the stride."""

    expand_ratio: int
    channels: int  # before the width multiplier
    kernel_size: int
    strides: int


class InvertedResidualBlock(nn.Module):
    """1x1, layer, depthwise, layer, squeeze-excite, 1x1, norm; plus the input where that fits.

    It maps `[N, H, W, C]` to `[N, ceil(H / strides), ceil(W / strides), features]`.

    Attributes:
      features: Number of output channels.
      conv: Factory of full convolutions, with padding and compute dtype bound.
      depthwise: Factory of depthwise convolutions, with padding and compute dtype bound.
      norm_act: Factory of norm-activation layers, with mode and compute dtype bound.
      kernel_size: Side of the filters of the depthwise convolution.
      strides: Strides of the depthwise convolution. If they are 1 and the block has as many input
        as output channels, the input is added to the output.
      expand_ratio: Ratio of the width between the 1x1 convolutions to that of the input; 1 leaves
        the first of them out.
      squeeze_ratio: Ratio of the width inside squeeze-excite to that of the block's input; 0 leaves
        squeeze-excite out.
      survival_probability: Probability that the branch is kept in training (see
        `stochastic_depth`).
    """

    features: int
    conv: ConvFactory
    depthwise: Callable[..., nn.Module]
    norm_act: NormActFactory
    kernel_size: int = 3
    strides: int = 1
    expand_ratio: int = 6
    squeeze_ratio: float = 0.0
    survival_probability: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        channels = x.shape[-1]
        y = x
        if self.expand_ratio != 1:
            y = self.conv(self.expand_ratio * channels, 1, name="expand_conv")(y)
            y = self.norm_act(name="expand_norm")(y)
        y = self.depthwise(self.kernel_size, self.strides, name="depthwise_conv")(y)
        y = self.norm_act(name="depthwise_norm")(y)
        if self.squeeze_ratio:
            y = SqueezeExcite(
                max(1, int(self.squeeze_ratio * channels)),
                activation=gate_activation(self.norm_act),
                dtype=y.dtype,
                name="squeeze_excite",
            )(y)
        y = self.conv(self.features, 1, name="project_conv")(y)
        y = self.norm_act(nonlinearity=False, name="project_norm")(y)
        if self.strides == 1 and self.features == channels:
            y = x + stochastic_depth(y, self.survival_probability, train)
        return y


class InvertedResidualNetwork(nn.Module):
    """The network of all three families, `[N, H, W, C]` to float32 logits `[N, num_classes]`.

    Parameters are float32 in the collection `params`, under `stem_conv`, `stem_norm`,
    `stage<i>_block<j>/{expand_conv,expand_norm,depthwise_conv,depthwise_norm,
    squeeze_excite/{reduce,expand},project_conv,project_norm}`, `head_conv`, `head_norm` and
    `head`; batch-dependent layers keep their statistics in `batch_stats` under the same names.

    Attributes:
      num_classes: Width of the logits; 0 leaves out the dense layer, and the network returns its
        input, the pooled features `[N, head_channels]` in float32.
      norm_act: Factory of norm-activation layers (see `evonorm_jax.norm_act`).
      width_multiplier: Factor of all numbers of channels, which `round_channels` then rounds.
      stage_sizes: Number of blocks of each stage; fewer numbers end the network earlier.
      stem: "imagenet", or "cifar" for small images. With "cifar" the stem and stage 2 keep the
        resolution, so that all maps after them are 4 times finer, as with a ResNet's "cifar" stem.
        The choice of the strides to leave out is ours.
      padding: Padding of the convolutions: "symmetric", or "same" for weights of TensorFlow.
      head_init: Initializer of the kernel of the dense layer.
      dropout_rate: Probability of dropout before the dense layer. Above 0, training needs the rng
        "dropout".
      survival_probability: Probability that a residual branch is kept in training. It falls
        linearly from 1 at the first block to about this value at the last. Below 1, training needs
        the rng "dropout".
      remat: Whether training keeps only the input of each block, and computes the inside of the
        block again for the gradient (`evonorm_jax.models.rematerialize`).
      dtype: Dtype of convolutions and layers.

    Raises:
      UserError: A field is out of range, or the images are not floats `[N, H, W, C]` with the
        number of channels that the network was initialised with.
    """

    num_classes: int
    norm_act: NormActFactory
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = ()
    stem: str = "imagenet"
    padding: str = "symmetric"
    head_init: Initializer = _HEAD_INIT
    dropout_rate: float = 0.0
    survival_probability: float = 1.0
    remat: bool = False
    dtype: Dtype = jnp.float32

    #: The family's table.
    stages: ClassVar[tuple[Stage, ...]]
    #: `squeeze_ratio` of every block.
    squeeze_ratio: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_num_classes(self.num_classes)
        check_positive("width_multiplier", self.width_multiplier)
        check_stage_sizes(self.stage_sizes)
        self.stage_sizes = tuple(self.stage_sizes)  # a list would make the network unhashable
        check_initializer("head_init", self.head_init)
        if len(self.stage_sizes) > len(self.stages):
            raise UserError(
                f"stage_sizes={self.stage_sizes}: this network has {len(self.stages)} stages."
            )
        if self.stem not in tuple(STEM_CONVS):
            raise UserError(f"stem={self.stem!r}: expected one of {', '.join(STEM_CONVS)}.")
        check_padding(self.padding)
        check_dropout_rate(self.dropout_rate)
        check_bool("remat", self.remat)
        check_survival_probability(self.survival_probability)
        super().__post_init__()

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Number of blocks of each stage, after any scaling."""
        return tuple(self.stage_sizes)

    @property
    def head_channels(self) -> int:
        """Number of channels of the last convolution; each family has its own rule."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, features: bool = False) -> jax.Array:
        check_images(images, self.get_variable("params", "stem_conv"))
        conv = functools.partial(
            conv2d, padding=self.padding, kernel_init=mobile_kernel_init, dtype=self.dtype
        )
        depthwise = functools.partial(DepthwiseConv, padding=self.padding, dtype=self.dtype)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)

        block = rematerialize(InvertedResidualBlock, self.remat)

        stem_channels = round_channels(32 * self.width_multiplier)
        x = conv(stem_channels, 3, 1 if self.stem == "cifar" else 2, name="stem_conv")(images)
        x = norm_act(name="stem_norm")(x)

        depth = 0
        for number, (stage, num_blocks) in enumerate(
            zip(self.stages, self.num_blocks, strict=False), start=1
        ):
            first_strides = 1 if self.stem == "cifar" and number == 2 else stage.strides
            for index in range(num_blocks):
                x = block(
                    round_channels(stage.channels * self.width_multiplier),
                    conv=conv,
                    depthwise=depthwise,
                    norm_act=norm_act,
                    kernel_size=stage.kernel_size,
                    strides=first_strides if index == 0 else 1,
                    expand_ratio=stage.expand_ratio,
                    squeeze_ratio=self.squeeze_ratio,
                    survival_probability=linear_survival(
                        self.survival_probability, depth, sum(self.num_blocks)
                    ),
                    name=f"stage{number}_block{index + 1}",
                )(x, train)
                depth += 1

        x = conv(self.head_channels, 1, name="head_conv")(x)
        x = norm_act(name="head_norm")(x)
        return classifier_head(
            x,
            num_classes=self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            features=features,
            kernel_init=self.head_init,
        )


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that is not more than 10% below `channels`.

    >>> [round_channels(channels) for channels in (3, 12, 19.2, 22.4, 35.2)]
    [8, 16, 24, 24, 32]
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
