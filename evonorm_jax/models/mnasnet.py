"""MnasNet-B1 (Tan et al., arXiv:1807.11626): the searched network without squeeze-excite.

The table is that of the authors' TPU code, 4,383,312 parameters with BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evonorm_jax.models.inverted_residual import InvertedResidualNetwork, Stage


class MnasNetB1(InvertedResidualNetwork):
    """MnasNet-B1.

    The base class documents the attributes, the names of the parameters and the errors.

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.norm_act import norm_act
    >>> model = MnasNetB1(num_classes=10, norm_act=norm_act("gn_relu"), stage_sizes=(1, 1))
    >>> images = jnp.ones((2, 64, 64, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sorted(variables["params"])[:4]
    ['head', 'head_conv', 'head_norm', 'stage1_block1']
    """

    stage_sizes: Sequence[int] = (1, 3, 3, 3, 2, 4, 1)

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(expand_ratio=1, channels=16, kernel_size=3, strides=1),
        Stage(expand_ratio=3, channels=24, kernel_size=3, strides=2),
        Stage(expand_ratio=3, channels=40, kernel_size=5, strides=2),
        Stage(expand_ratio=6, channels=80, kernel_size=5, strides=2),
        Stage(expand_ratio=6, channels=96, kernel_size=3, strides=1),
        Stage(expand_ratio=6, channels=192, kernel_size=5, strides=2),
        Stage(expand_ratio=6, channels=320, kernel_size=3, strides=1),
    )

    @property
    def head_channels(self) -> int:
        """Number of channels of the last convolution, whatever the width multiplier."""
        return 1280
