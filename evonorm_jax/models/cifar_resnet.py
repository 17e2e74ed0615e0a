"""Pre-activation CIFAR ResNets: 6n + 2 layers for 32x32 images.

He et al., arXiv:1512.03385 section 4.2 (three stages of n basic blocks, 16, 32 and 64
channels, 3x3 stem) in the pre-activation order of arXiv:1603.05027, with the very basic block
of `resnet.py`.

Shortcuts: a strided 1x1 convolution of the first layer's output where the shape changes, the
identity elsewhere. He et al. subsampled the identity and padded its channels with zeros there
("option A"). The projection is what the EvoNorm authors' networks use, and it keeps the
residual stream free of channels that are constant zero, which a group-wise layer would count
in its statistics. It costs 2,560 parameters, 0.9% of the 20-layer network.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.models.classifier import (
    check_bool,
    check_dropout_rate,
    check_images,
    check_num_classes,
    check_positive_int,
    classifier_head,
)
from evonorm_jax.models.convolution import conv2d
from evonorm_jax.models.rematerialize import rematerialize
from evonorm_jax.models.resnet import BasicBlock, NormActFactory


class CifarResNet(nn.Module):
    """Pre-activation ResNet of `depth` layers for small images `[N, H, W, C]`.

    It returns float32 logits `[N, num_classes]`. The names of the parameters are those of
    `evonorm_jax.models.resnet.ResNet`.

    Attributes:
      depth: Number of convolutions outside the shortcuts and of the dense layer, 6n + 2. The
        smallest is 8, with one block per stage.
      num_classes: Width of the logits; 0 leaves out the dense layer, and the network returns its
        input, the pooled features `[N, 4 * num_filters]` in float32.
      norm_act: Factory of norm-activation layers (see `evonorm_jax.norm_act`).
      num_filters: Channels of the stem and of stage 1; stages 2 and 3 double them.
      dropout_rate: Probability of dropout before the dense layer. Above 0, training needs the rng
        "dropout".
      remat: Whether training keeps only the input of each block, and computes the inside of the
        block again for the gradient (`evonorm_jax.models.rematerialize`).
      dtype: Dtype of convolutions and layers; parameters and logits are float32.

    Raises:
      UserError: A field is out of range, or the images are not floats `[N, H, W, C]` with the
        number of channels that the network was initialised with.
    """

    depth: int
    num_classes: int
    norm_act: NormActFactory
    num_filters: int = 16
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_num_classes(self.num_classes)
        check_positive_int("num_filters", self.num_filters)
        check_positive_int("depth", self.depth)
        if self.depth < 8 or self.depth % 6 != 2:
            raise UserError(f"depth={self.depth}: expected 6n + 2, that is 8, 14, 20, 26, 32, ...")
        check_dropout_rate(self.dropout_rate)
        check_bool("remat", self.remat)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, features: bool = False) -> jax.Array:
        check_images(images, self.get_variable("params", "stem_conv"))
        conv = functools.partial(conv2d, dtype=self.dtype)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)

        block = rematerialize(BasicBlock, self.remat)

        x = conv(self.num_filters, 3, name="stem_conv")(images)
        for stage in range(3):
            for index in range((self.depth - 2) // 6):
                changes_shape = stage > 0 and index == 0
                x = block(
                    self.num_filters * 2**stage,
                    conv=conv,
                    norm_act=norm_act,
                    strides=2 if changes_shape else 1,
                    use_projection=changes_shape,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x)

        x = norm_act(name="head_norm")(x)
        return classifier_head(
            x,
            num_classes=self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            features=features,
        )


CifarResNet20 = functools.partial(CifarResNet, depth=20)
CifarResNet32 = functools.partial(CifarResNet, depth=32)
CifarResNet56 = functools.partial(CifarResNet, depth=56)
CifarResNet110 = functools.partial(CifarResNet, depth=110)
