"""EfficientNet-B0 to B7 (Tan and Le, arXiv:1905.11946): inverted residuals at eight scales.

Compound scaling makes B1 to B7 from B0: every stage becomes wider, deeper and of higher resolution,
as the table `SCALINGS` says. The width inside squeeze-excite is a share of the channels that enter
the block, before they are expanded. Parameter counts with BatchNorm are the published ones,
5,288,548 for B0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from evonorm_jax.models.classifier import check_positive, resnet_head_init
from evonorm_jax.models.inverted_residual import (
    InvertedResidualNetwork,
    Stage,
    round_channels,
)


class Scaling(NamedTuple):
    """One row of `SCALINGS`.

    `image_size` and `dropout_rate` belong to the recipe for training, not to the network.
    """

    width: float
    depth: float
    image_size: int  # pixels
    dropout_rate: float


#: As in the authors' TPU code.
SCALINGS: Mapping[str, Scaling] = MappingProxyType(
    {
        "efficientnet_b0": Scaling(1.0, 1.0, 224, 0.2),
        "efficientnet_b1": Scaling(1.0, 1.1, 240, 0.2),
        "efficientnet_b2": Scaling(1.1, 1.2, 260, 0.3),
        "efficientnet_b3": Scaling(1.2, 1.4, 300, 0.3),
        "efficientnet_b4": Scaling(1.4, 1.8, 380, 0.4),
        "efficientnet_b5": Scaling(1.6, 2.2, 456, 0.4),
        "efficientnet_b6": Scaling(1.8, 2.6, 528, 0.5),
        "efficientnet_b7": Scaling(2.0, 3.1, 600, 0.5),
    }
)


class EfficientNet(InvertedResidualNetwork):
    """EfficientNet.

    The base class documents the other attributes, the names of the parameters and the errors.

    Attributes:
      depth_multiplier: Factor of the number of blocks of each stage; the product is rounded up.

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.layers import EvoNormB0
    >>> model = EfficientNet(num_classes=10, norm_act=EvoNormB0)
    >>> images = jnp.ones((2, 64, 64, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> variables["params"]["stage2_block1"]["squeeze_excite"]["reduce"]["kernel"]  # 6 * 16, 16 / 4
    ShapeDtypeStruct(shape=(96, 4), dtype=float32)
    """

    stage_sizes: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
    depth_multiplier: float = 1.0

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(expand_ratio=1, channels=16, kernel_size=3, strides=1),
        Stage(expand_ratio=6, channels=24, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=40, kernel_size=5, strides=2),
        Stage(expand_ratio=6, channels=80, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=112, kernel_size=5, strides=1),
        Stage(expand_ratio=6, channels=192, kernel_size=5, strides=2),
        Stage(expand_ratio=6, channels=320, kernel_size=3, strides=1),
    )
    squeeze_ratio: ClassVar[float] = 0.25

    def __post_init__(self) -> None:
        check_positive("depth_multiplier", self.depth_multiplier)
        super().__post_init__()

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Number of blocks of each stage, after scaling."""
        return tuple(math.ceil(self.depth_multiplier * size) for size in self.stage_sizes)

    @property
    def head_channels(self) -> int:
        """Number of channels of the last convolution, scaled as all others."""
        return round_channels(1280 * self.width_multiplier)


def scaled(name: str) -> functools.partial:
    """Returns the constructor of the network in a row of `SCALINGS`."""
    scaling = SCALINGS[name]
    return functools.partial(
        EfficientNet, width_multiplier=scaling.width, depth_multiplier=scaling.depth
    )


# For the layer search on CIFAR; the paper does not give its networks, the width is our choice.
# `head_init` as in `MobileNetV2Cifar`.
EfficientNetB0Cifar = functools.partial(
    EfficientNet, width_multiplier=0.5, stem="cifar", head_init=resnet_head_init
)
