"""SpineNet: a backbone with blocks that do not go from fine to coarse maps in order.

The network is that of Du et al., "SpineNet: Learning Scale-Permuted Backbone for Recognition and
Localization" (arXiv:1912.05027), in the form of the authors' TensorFlow code (tensorflow/tpu,
models/official/detection), the one that the EvoNorm paper transfers to. A stem of two block groups
is followed by 15 more groups. Each of them takes two earlier groups, its parents, which are
resampled to its level and width.

The blocks are the post-activation ones of `resnet_v1.py`. The sum of two parents is activated like
a residual sum, so `residual_norm` means the same here. Two things differ from the authors' code:
the max-pool (see `convolution.py`), and the scale at the end of every block, which starts at zero
(see `resnet_v1.py`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.models.classifier import (
    check_divisible,
    check_images,
    check_positive,
    check_positive_int,
)
from evonorm_jax.models.convolution import conv2d, max_pool, upsample_nearest
from evonorm_jax.models.resnet import ConvFactory, FeatureMaps, NormActFactory
from evonorm_jax.models.resnet_v1 import (
    BasicBlockV1,
    BottleneckBlockV1,
    check_residual_norm,
    sum_activation,
)


class BlockSpec(NamedTuple):
    """One block group of the permuted part."""

    level: int
    bottleneck: bool
    parents: tuple[int, int]  # among all groups so far, those of the stem being 0 and 1
    is_output: bool = False


#: The result of the architecture search (figure 3 of the paper).
BLOCKS = (
    BlockSpec(2, True, (0, 1)),
    BlockSpec(4, False, (0, 1)),
    BlockSpec(3, True, (2, 3)),
    BlockSpec(4, True, (2, 4)),
    BlockSpec(6, False, (3, 5)),
    BlockSpec(4, True, (3, 5)),
    BlockSpec(5, False, (6, 7)),
    BlockSpec(7, False, (6, 8)),
    BlockSpec(5, True, (8, 9)),
    BlockSpec(5, True, (8, 10)),
    BlockSpec(4, True, (5, 10), is_output=True),
    BlockSpec(3, True, (4, 10), is_output=True),
    BlockSpec(5, True, (7, 12), is_output=True),
    BlockSpec(7, True, (5, 14), is_output=True),
    BlockSpec(6, True, (12, 14), is_output=True),
)
_STEM = BlockSpec(2, True, (0, 0))
_NUM_STEM_GROUPS = 2

#: Level -> filters of its blocks; a bottleneck has 4 times as many channels.
FILTERS = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}

#: The image is halved this many times.
COARSEST_LEVEL = 7


class Resample(nn.Module):
    """Resamples a parent to the level and width of a block.

    Maps `[N, H, W, C]` become `[N, H', W', features]`.

    Attributes:
      features: Number of output channels.
      inner: Number of channels while the resolution changes.
      levels_down: Number of times that the map is halved; a negative number doubles it as often.
      conv: Factory of convolutions, bound to the compute dtype.
      norm_act: Factory of norm-activation layers, bound to the mode and the compute dtype.
    """

    features: int
    inner: int
    levels_down: int
    conv: ConvFactory
    norm_act: NormActFactory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.inner, 1, name="reduce_conv")(x)
        x = self.norm_act(name="reduce_norm")(x)
        if self.levels_down > 0:
            x = self.conv(self.inner, 3, 2, name="down_conv")(x)
            x = self.norm_act(name="down_norm")(x)
        if self.levels_down > 1:
            window = 3 if self.levels_down == 2 else 5
            x = max_pool(x, window, strides=2 ** (self.levels_down - 1))
        if self.levels_down < 0:
            x = upsample_nearest(x, 2**-self.levels_down)
        x = self.conv(self.features, 1, name="expand_conv")(x)
        return self.norm_act(nonlinearity=False, name="expand_norm")(x)


class SpineNet(nn.Module):
    """A backbone that returns feature maps of levels 3 to 7.

    The map of level l has shape `[N, H / 2^l, W / 2^l, endpoint_filters]`.

    Parameters are float32 in the collection `params`, under `stem_conv`, `stem_norm`,
    `stem<i>_block<j>`, `group<k>_{resample1,resample2,block<j>}` and `level<l>_{conv,norm}`.

    Attributes:
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      num_repeats: Number of blocks of each group.
      filter_scale: Factor of all filters but those of the stem's convolution and of the maps that
        are returned.
      resample_alpha: Number of channels while a parent is resampled, over the filters of that
        parent.
      endpoint_filters: Number of channels of the maps that are returned.
      residual_norm: Rule for layers that no activation follows, "norm" or "affine" as in
        `resnet_v1.py`.
      dtype: Dtype of convolutions and layers.

    Raises:
      UserError: When the model is constructed, a field is out of range or the layer does not fit
        the network. When it is called, the sides of the images are no multiples of 128 pixels.

    >>> import jax, jax.numpy as jnp
    >>> from evonorm_jax.norm_act import norm_act
    >>> model = SpineNet(norm_act("bn_relu"), filter_scale=0.25, endpoint_filters=32)
    >>> images = jnp.ones((1, 128, 256, 3))
    >>> maps, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    >>> {level: leaf.shape[1:3] for level, leaf in maps.items()}
    {3: (16, 32), 4: (8, 16), 5: (4, 8), 6: (2, 4), 7: (1, 2)}
    """

    norm_act: NormActFactory
    num_repeats: int = 1
    filter_scale: float = 1.0
    resample_alpha: float = 0.5
    endpoint_filters: int = 256
    residual_norm: str = "norm"
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_positive_int("num_repeats", self.num_repeats)
        check_positive("filter_scale", self.filter_scale)
        check_positive("resample_alpha", self.resample_alpha)
        check_positive_int("endpoint_filters", self.endpoint_filters)
        check_residual_norm(self.norm_act, self.residual_norm)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> FeatureMaps:
        check_images(images, self.get_variable("params", "stem_conv"))
        check_divisible(images, COARSEST_LEVEL)
        conv = functools.partial(conv2d, dtype=self.dtype)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        bound: dict[str, Any] = {"conv": conv, "norm_act": norm_act}

        x = conv(64, 7, 2, name="stem_conv")(images)
        x = norm_act(name="stem_norm")(x)
        x = max_pool(x, window=3, strides=2)
        groups: list[tuple[BlockSpec, jax.Array]] = []
        for index in range(_NUM_STEM_GROUPS):
            x = self._block_group(x, _STEM, f"stem{index + 1}", **bound)
            groups.append((_STEM, x))

        unused = set(range(_NUM_STEM_GROUPS))
        outputs: FeatureMaps = {}
        for number, spec in enumerate(BLOCKS, start=1):
            first, second = (
                self._resample(*groups[parent], spec, f"group{number}_resample{index + 1}", **bound)
                for index, parent in enumerate(spec.parents)
            )
            x = first + second
            unused -= set(spec.parents)
            if spec.is_output:
                idle = [index for index in unused if groups[index][1].shape == x.shape]
                for index in sorted(idle):
                    x = x + groups[index][1]
                unused -= set(idle)
            x = sum_activation(self.norm_act)(x)
            x = self._block_group(x, spec, f"group{number}", **bound)
            unused.add(len(groups))
            groups.append((spec, x))
            if spec.is_output:
                outputs[spec.level] = x

        maps: FeatureMaps = {}
        for level in sorted(outputs):
            x = conv(self.endpoint_filters, 1, name=f"level{level}_conv")(outputs[level])
            maps[level] = norm_act(name=f"level{level}_norm")(x)
        return maps

    def _filters(self, spec: BlockSpec) -> int:
        return max(1, int(FILTERS[spec.level] * self.filter_scale))

    def _channels(self, spec: BlockSpec) -> int:
        return self._filters(spec) * (4 if spec.bottleneck else 1)

    def _resample(
        self, source: BlockSpec, x: jax.Array, target: BlockSpec, name: str, **bound: Any
    ) -> jax.Array:
        return Resample(
            self._channels(target),
            inner=max(1, int(self._filters(source) * self.resample_alpha)),
            levels_down=target.level - source.level,
            name=name,
            **bound,
        )(x)

    def _block_group(self, x: jax.Array, spec: BlockSpec, name: str, **bound: Any) -> jax.Array:
        block = BottleneckBlockV1 if spec.bottleneck else BasicBlockV1
        for index in range(self.num_repeats):
            x = block(
                self._filters(spec),
                use_projection=x.shape[-1] != self._channels(spec),
                name=f"{name}_block{index + 1}",
                **bound,
            )(x)
        return x


SpineNet49S = functools.partial(SpineNet, filter_scale=0.65, endpoint_filters=128)
SpineNet49 = SpineNet
SpineNet96 = functools.partial(SpineNet, num_repeats=2)
SpineNet143 = functools.partial(SpineNet, num_repeats=3, resample_alpha=1.0)
SpineNet190 = functools.partial(
    SpineNet, num_repeats=4, filter_scale=1.3, resample_alpha=1.0, endpoint_filters=512
)
