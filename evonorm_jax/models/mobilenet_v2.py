"""MobileNetV2 (Sandler et al., arXiv:1801.04381, table 2) for ImageNet and small images.

The default is the network of the paper's tables, 3,504,872 parameters with BatchNorm. As there,
ReLU6 becomes whatever `norm_act` makes, and the last convolution is never narrowed below 1280.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

from evonorm_jax.models.inverted_residual import InvertedResidualNetwork, Stage


class MobileNetV2(InvertedResidualNetwork):
    """MobileNetV2; attributes, names of the parameters and errors as in its base class.

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.layers import EvoNormS0
    >>> model = MobileNetV2(num_classes=10, norm_act=EvoNormS0, width_multiplier=0.5)
    >>> images = jnp.ones((2, 64, 64, 3))
    >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    >>> logits
    ShapeDtypeStruct(shape=(2, 10), dtype=float32)
    >>> sorted(variables["params"]["stage1_block1"])
    ['depthwise_conv', 'depthwise_norm', 'project_conv', 'project_norm']
    """

    stage_sizes: Sequence[int] = (1, 2, 3, 4, 3, 3, 1)

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(expand_ratio=1, channels=16, kernel_size=3, strides=1),
        Stage(expand_ratio=6, channels=24, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=32, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=64, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=96, kernel_size=3, strides=1),
        Stage(expand_ratio=6, channels=160, kernel_size=3, strides=2),
        Stage(expand_ratio=6, channels=320, kernel_size=3, strides=1),
    )


# For the layer search on CIFAR; the paper does not give its networks, the width is our choice.
MobileNetV2Cifar = functools.partial(MobileNetV2, width_multiplier=0.5, stem="cifar")
