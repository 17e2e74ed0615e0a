"""Pre-activation residual networks (ResNet v2), the networks EvoNorm was designed for.

Source: He et al., "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027), in the form
of the EvoNorm authors' TensorFlow code (tensorflow/tpu, models/official/resnet):

- stem: 7x7/2 convolution and 3x3/2 max-pool, no layer after them;
- bottleneck: layer, 1x1, layer, 3x3 (strided), layer, 1x1, add; basic block: layer, 3x3
  (strided), layer, 3x3, add; nothing follows the last convolution;
- the first block of every stage takes its shortcut from a strided 1x1 convolution of the
  output of its first layer; resnet18 and 34 project in stage 1 too, though the shapes agree;
- one more layer after the last block, then global average pool, dropout and a dense layer.

"Layer" is the layer that `norm_act` makes: the blocks name neither a normalisation nor an
activation. The max-pool differs from the authors' (see `convolution.py`).

With `num_classes=None` the network is a backbone: instead of logits it returns the output of every
stage, each behind a layer of its own because the blocks end in a bare sum.

The fields `stem="imagenet_deep"` and `avg_down=True` make the "D" networks of He et al., "Bag of
Tricks" (arXiv:1812.01187, figure 2), to which timm's EvoNorm ResNet belongs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.layers.base import NormActLayer
from evonorm_jax.models.classifier import (
    check_bool,
    check_dropout_rate,
    check_images,
    check_num_classes,
    check_positive_int,
    check_stage_sizes,
    classifier_head,
)
from evonorm_jax.models.convolution import avg_pool, conv2d, max_pool
from evonorm_jax.models.rematerialize import rematerialize

ConvFactory = Callable[..., nn.Module]
NormActFactory = type[nn.Module] | functools.partial  # what `norm_act` returns, or a bare class

#: Level l -> map `[N, H / 2^l, W / 2^l, C]`, as a backbone returns them.
FeatureMaps = dict[int, jax.Array]

# Stem name -> (kernel size, strides) of its one convolution; "imagenet_deep" has three.
STEM_CONVS = {"imagenet": (7, 2), "cifar": (3, 1)}
STEMS = ("imagenet", "imagenet_deep", "cifar")


class BasicBlock(nn.Module):
    """Layer, 3x3, layer, 3x3, add: `[N, H, W, C]` to `[N, H/strides, W/strides, num_filters]`.

    Attributes:
      num_filters: Number of channels of both convolutions.
      conv: Factory of convolutions, with the compute dtype bound.
      norm_act: Factory of norm-activation layers, with mode and compute dtype bound.
      strides: Strides of the first 3x3 convolution and of the projection.
      use_projection: Whether the shortcut has a 1x1 convolution, which it needs where the shape
        changes.
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
        norm1 = self.norm_act(name="norm1")
        if self.use_projection:
            y = norm1(x)
            shortcut = project_shortcut(self, y, self.num_filters)
        else:
            y, shortcut = norm_act_with_shortcut(norm1, x)
        y = self.conv(self.num_filters, 3, self.strides, name="conv1")(y)
        y = self.norm_act(name="norm2")(y)
        y = self.conv(self.num_filters, 3, name="conv2")(y)
        return shortcut + y


class BottleneckBlock(nn.Module):
    """Layer, 1x1, layer, 3x3, layer, 1x1, add; the output has `4 * num_filters` channels.

    The attributes are those of `BasicBlock`, but the 3x3 convolution has the strides.
    """

    num_filters: int
    conv: ConvFactory
    norm_act: NormActFactory
    strides: int = 1
    use_projection: bool = False
    avg_down: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm1 = self.norm_act(name="norm1")
        if self.use_projection:
            y = norm1(x)
            shortcut = project_shortcut(self, y, 4 * self.num_filters)
        else:
            y, shortcut = norm_act_with_shortcut(norm1, x)
        y = self.conv(self.num_filters, 1, name="conv1")(y)
        y = self.norm_act(name="norm2")(y)
        y = self.conv(self.num_filters, 3, self.strides, name="conv2")(y)
        y = self.norm_act(name="norm3")(y)
        y = self.conv(4 * self.num_filters, 1, name="conv3")(y)
        return shortcut + y


class ResNet(nn.Module):
    """Pre-activation ResNet for images `[N, H, W, C]`, with float32 logits `[N, num_classes]`.

    Parameters are float32 in the collection `params`, under `stem_conv`,
    `stage<i>_block<j>/{norm1,conv1,...,shortcut_conv}`, `head_norm` and `head`; batch-dependent
    layers keep their statistics in `batch_stats` under the same names. A backbone has
    `stage<i>_norm` in place of `head_norm` and `head`.

    Attributes:
      stage_sizes: Number of blocks of each stage.
      num_classes: Width of the logits; 0 leaves out the dense layer, and the network returns its
        input, the pooled features `[N, C]` in float32. None makes a backbone, which returns
        `FeatureMaps` in `dtype`, levels 2 to 5 where there are four stages.
      norm_act: Factory of norm-activation layers (see `evonorm_jax.norm_act`).
      bottleneck: Whether the blocks are bottleneck blocks (depth 50 and more) or basic ones.
      num_filters: Number of channels of the stem; every stage after the first doubles it.
      stem: "imagenet" (7x7/2 and max-pool), "imagenet_deep" (3x3/2 and two 3x3 with layers
        between them, under `stem_conv<k>` and `stem_norm<k>`, and max-pool) or "cifar"
        (3x3/1, no pool).
      avg_down: Whether the strides of the shortcuts belong to an average pool instead of the 1x1
        convolution.
      dropout_rate: Probability of dropout before the dense layer. Above 0, training needs the rng
        "dropout".
      remat: Whether training keeps only the input of each block, and computes the inside of the
        block again for the gradient (`evonorm_jax.models.rematerialize`).
      dtype: Dtype of convolutions and layers.

    Raises:
      UserError: A field is out of range, or the images are not floats `[N, H, W, C]` with the
        number of channels that the network was initialised with.

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.layers import EvoNormS0
    >>> model = ResNet(stage_sizes=(1, 1), num_classes=10, norm_act=EvoNormS0, num_filters=8)
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    >>> logits
    ShapeDtypeStruct(shape=(2, 10), dtype=float32)
    >>> sorted(variables["params"])
    ['head', 'head_norm', 'stage1_block1', 'stage2_block1', 'stem_conv']
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
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_stage_sizes(self.stage_sizes)
        self.stage_sizes = tuple(self.stage_sizes)  # a list would make the network unhashable
        check_resnet_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> jax.Array | FeatureMaps:
        check_images(images, self.get_variable("params", first_conv_name(self.stem)))
        conv = functools.partial(conv2d, dtype=self.dtype)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        block = rematerialize(BottleneckBlock if self.bottleneck else BasicBlock, self.remat)

        x = stem_convs(images, self.stem, self.num_filters, conv=conv, norm_act=norm_act)
        if self.stem != "cifar":
            x = max_pool(x, window=3, strides=2)

        maps: FeatureMaps = {}
        for stage, num_blocks in enumerate(self.stage_sizes):
            for index in range(num_blocks):
                x = block(
                    self.num_filters * 2**stage,
                    conv=conv,
                    norm_act=norm_act,
                    strides=2 if stage > 0 and index == 0 else 1,
                    use_projection=index == 0,
                    avg_down=self.avg_down,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)
            if self.num_classes is None:
                level = first_level(self.stem) + stage
                maps[level] = norm_act(name=f"stage{stage + 1}_norm")(x)

        if self.num_classes is None:
            return maps
        x = norm_act(name="head_norm")(x)
        return classifier_head(
            x,
            num_classes=self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            features=features,
        )


def stem_convs(
    images: jax.Array,
    stem: str,
    num_filters: int,
    *,
    conv: ConvFactory,
    norm_act: NormActFactory,
) -> jax.Array:
    """Applies the convolutions of a stem and the layers between them.

    Call it inside a compact method.
    """
    if stem != "imagenet_deep":
        return conv(num_filters, *STEM_CONVS[stem], name="stem_conv")(images)
    x = conv(num_filters // 2, 3, 2, name="stem_conv1")(images)
    x = norm_act(name="stem_norm1")(x)
    x = conv(num_filters // 2, 3, name="stem_conv2")(x)
    x = norm_act(name="stem_norm2")(x)
    return conv(num_filters, 3, name="stem_conv3")(x)


def first_conv_name(stem: str) -> str:
    """Returns the name of the convolution that takes the image."""
    return "stem_conv1" if stem == "imagenet_deep" else "stem_conv"


def first_level(stem: str) -> int:
    """Returns the level of the first stage: its map is 2^level times smaller than the image."""
    return 0 if stem == "cifar" else 2


def project_shortcut(block: nn.Module, x: jax.Array, features: int) -> jax.Array:
    """Applies the 1x1 convolution of a block's shortcut to `x`, with the strides of the block."""
    strides = block.strides
    if block.avg_down and strides > 1:
        x, strides = avg_pool(x, strides), 1
    return block.conv(features, 1, strides, name="shortcut_conv")(x)


def norm_act_with_shortcut(layer: nn.Module, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `layer(x)`, and x for the shortcut around what follows.

    A layer of this project that adds the gradient of the shortcut to its own hands x through.
    """
    if isinstance(layer, NormActLayer) and layer.adds_shortcut:
        return layer(x, with_shortcut=True)
    return layer(x), x


def check_resnet_fields(model: nn.Module) -> None:
    """Raises `UserError` if a field of a ResNet, v2 or v1.5, is out of range."""
    if model.num_classes is not None:
        check_num_classes(model.num_classes)
    check_positive_int("num_filters", model.num_filters)
    check_dropout_rate(model.dropout_rate)
    if model.stem not in tuple(STEMS):
        raise UserError(f"stem={model.stem!r}: expected one of {', '.join(STEMS)}.")
    if model.stem == "imagenet_deep" and model.num_filters % 2:
        raise UserError(
            f"num_filters={model.num_filters}: stem='imagenet_deep' halves it; take an even number."
        )
    check_bool("avg_down", model.avg_down)
    check_bool("remat", model.remat)


ResNet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), bottleneck=False)
ResNet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=False)
ResNet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3))
ResNet101 = functools.partial(ResNet, stage_sizes=(3, 4, 23, 3))
ResNet152 = functools.partial(ResNet, stage_sizes=(3, 8, 36, 3))
ResNet200 = functools.partial(ResNet, stage_sizes=(3, 24, 36, 3))

# For the layer search on CIFAR; the paper does not give its networks, the width is our choice.
ResNet50Cifar = functools.partial(ResNet50, num_filters=16, stem="cifar")
