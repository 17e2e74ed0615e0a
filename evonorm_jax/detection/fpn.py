"""The feature pyramid (Lin et al., "Feature Pyramid Networks", arXiv:1612.03144).

It has the form of the authors' TensorFlow code (tensorflow/tpu, models/official/detection), with a
norm on every level and no activation after it. For EvoNorm, that is its affine map alone.
"""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.models.convolution import conv2d, upsample_nearest
from evonorm_jax.models.resnet import FeatureMaps, NormActFactory


class FeaturePyramid(nn.Module):
    """Maps of equal width on the levels `min_level` to `max_level`, `[N, H / 2^l, W / 2^l, C]`.

    A 1x1 convolution brings every map of the backbone to C channels. The next coarser map is
    enlarged and added, and a 3x3 convolution follows. A level that the backbone does not have is
    made from the level below it by a 3x3 convolution of stride 2. The first such convolution takes
    the map before its norm; those after it take a ReLU of the map.

    Parameters: `level<l>_{lateral_conv,conv,norm}`.

    Attributes:
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      min_level: Finest level.
      max_level: Coarsest level.
      num_filters: Number C of channels of every map.
      dtype: Dtype of convolutions and layers.
    """

    norm_act: NormActFactory
    min_level: int
    max_level: int
    num_filters: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, backbone_maps: FeatureMaps, train: bool = False) -> FeatureMaps:
        conv = functools.partial(
            conv2d,
            self.num_filters,
            use_bias=True,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
        )
        norm = functools.partial(
            self.norm_act, use_running_average=not train, nonlinearity=False, dtype=self.dtype
        )
        levels = range(self.min_level, self.max_level + 1)
        lateral = [level for level in levels if level in backbone_maps]

        merged: FeatureMaps = {}
        for level in reversed(lateral):
            merged[level] = conv(1, name=f"level{level}_lateral_conv")(backbone_maps[level])
            if level + 1 in merged:
                merged[level] += upsample_nearest(merged[level + 1], 2)
        maps = {level: conv(3, name=f"level{level}_conv")(merged[level]) for level in lateral}
        for previous, level in itertools.pairwise(levels):
            if level not in maps:
                coarse = maps[previous] if previous in lateral else nn.relu(maps[previous])
                maps[level] = conv(3, 2, name=f"level{level}_conv")(coarse)
        return {level: norm(name=f"level{level}_norm")(maps[level]) for level in levels}
