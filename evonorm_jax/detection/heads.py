"""The three heads: region proposals, boxes with their classes, masks.

After He et al., "Mask R-CNN" (arXiv:1703.06870), in the form of the authors' TensorFlow code
(tensorflow/tpu, models/official/detection) with a layer behind every convolution but the last and
behind the dense layer: the layout that the parameter counts of the EvoNorm paper's Table 4
determine. The last linear map of every branch computes in float32, as its output feeds a loss.

Where the leading axis is regions instead of images, batch statistics must be taken over the regions
of as many images as before: `per_region` sees to that.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.models.convolution import TransposedConv, conv2d
from evonorm_jax.models.resnet import FeatureMaps, NormActFactory
from evonorm_jax.norm_act import accepts_field

_branch_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def per_region(norm_act: NormActFactory, num_regions: int) -> NormActFactory:
    """The layer for a batch of `num_regions` regions an image, in the order of the images.

    `virtual_batch_size` counts images in the rest of the network; here it counts regions.

    >>> from evonorm_jax.norm_act import norm_act
    >>> per_region(norm_act("bn_relu", virtual_batch_size=2), 512)().virtual_batch_size
    1024
    """
    if not accepts_field(norm_act, "virtual_batch_size"):
        return norm_act
    images = norm_act(parent=None).virtual_batch_size
    if images is None:
        return norm_act
    return functools.partial(norm_act, virtual_batch_size=images * num_regions)


class RegionProposalHead(nn.Module):
    """Per level an objectness logit and four deltas for every anchor.

    The convolutions are shared by the levels; every level has layers of its own.

    Parameters: `conv<i>`, `level<l>_norm<i>`, `scores`, `deltas`.

    Attributes:
      norm_act: makes a norm-activation layer (see `evonorm_jax.norm_act`).
      num_anchors: A, at every pixel.
      num_convs: 3x3 convolutions before the answers.
      num_filters: their channels.
      dtype: dtype of convolutions and layers.
    """

    norm_act: NormActFactory
    num_anchors: int
    num_convs: int
    num_filters: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: FeatureMaps, train: bool = False
    ) -> tuple[dict[int, jax.Array], dict[int, jax.Array]]:
        """Level -> logits `[N, H * W * A]` and level -> deltas `[N, H * W * A, 4]`, float32."""
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        conv = functools.partial(
            conv2d, use_bias=True, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype
        )
        convs = [conv(self.num_filters, 3, name=f"conv{i + 1}") for i in range(self.num_convs)]
        answer = functools.partial(conv, kernel_size=1, dtype=jnp.float32)
        score = answer(self.num_anchors, name="scores")
        delta = answer(4 * self.num_anchors, name="deltas")

        scores, deltas = {}, {}
        for level, x in maps.items():
            for index, shared in enumerate(convs, start=1):
                x = norm_act(name=f"level{level}_norm{index}")(shared(x))
            scores[level] = score(x).reshape(len(x), -1)
            deltas[level] = delta(x).reshape(len(x), -1, 4)
        return scores, deltas


class BoxHead(nn.Module):
    """Classes and class-specific boxes of regions.

    Parameters: `conv<i>`, `norm<i>`, `dense`, `dense_norm`, `classes`, `deltas`.

    Attributes:
      norm_act: makes a norm-activation layer (see `evonorm_jax.norm_act`).
      num_classes: K, the background included.
      num_convs: 3x3 convolutions before the dense layer.
      num_filters: their channels.
      num_units: channels of the dense layer.
      dtype: dtype of convolutions and layers.
    """

    norm_act: NormActFactory
    num_classes: int
    num_convs: int
    num_filters: int
    num_units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """`[N, R, S, S, C]` to float32 logits `[N, R, K]` and deltas `[N, R, K, 4]`."""
        images, num_regions = regions.shape[:2]
        norm_act = functools.partial(
            per_region(self.norm_act, num_regions), use_running_average=not train, dtype=self.dtype
        )
        x = regions.reshape(images * num_regions, *regions.shape[2:])
        x = _conv_branch(
            x,
            num_convs=self.num_convs,
            num_filters=self.num_filters,
            norm_act=norm_act,
            dtype=self.dtype,
        )
        x = x.reshape(len(x), -1)
        x = nn.Dense(
            self.num_units,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
            name="dense",
        )(x)
        # As a map of one pixel: a group is that of the channels of one region.
        x = norm_act(name="dense_norm")(x[:, None, None]).reshape(images, num_regions, -1)

        def answer(features: int, stddev: float, name: str) -> nn.Dense:
            kernel_init = nn.initializers.normal(stddev)
            return nn.Dense(features, kernel_init=kernel_init, dtype=jnp.float32, name=name)

        deltas = answer(4 * self.num_classes, 0.001, "deltas")(x)
        return (
            answer(self.num_classes, 0.01, "classes")(x),
            deltas.reshape(images, num_regions, self.num_classes, 4),
        )


class MaskHead(nn.Module):
    """The mask of each region, for the class that it has.

    Parameters: `conv<i>`, `norm<i>`, `upsample_conv`, `upsample_norm`, `masks`.

    Attributes as in `BoxHead`.
    """

    norm_act: NormActFactory
    num_classes: int
    num_convs: int
    num_filters: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array, classes: jax.Array, train: bool = False) -> jax.Array:
        """`[N, R, S, S, C]` and `[N, R]` to float32 logits `[N, R, 2 S, 2 S]`."""
        images, num_regions = regions.shape[:2]
        norm_act = functools.partial(
            per_region(self.norm_act, num_regions), use_running_average=not train, dtype=self.dtype
        )
        x = regions.reshape(images * num_regions, *regions.shape[2:])
        x = _conv_branch(
            x,
            num_convs=self.num_convs,
            num_filters=self.num_filters,
            norm_act=norm_act,
            dtype=self.dtype,
        )
        x = TransposedConv(
            self.num_filters, kernel_init=_branch_init, dtype=self.dtype, name="upsample_conv"
        )(x)
        x = norm_act(name="upsample_norm")(x)
        logits = conv2d(
            self.num_classes,
            1,
            use_bias=True,
            kernel_init=_branch_init,
            dtype=jnp.float32,
            name="masks",
        )(x)
        logits = jnp.take_along_axis(logits, classes.reshape(-1, 1, 1, 1), axis=-1)
        return logits.reshape(images, num_regions, *logits.shape[1:3])


def _conv_branch(
    x: jax.Array, *, num_convs: int, num_filters: int, norm_act: NormActFactory, dtype: Dtype
) -> jax.Array:
    """3x3 convolutions with a layer behind each; call it inside a compact method."""
    for index in range(1, num_convs + 1):
        conv = conv2d(
            num_filters,
            3,
            use_bias=True,
            kernel_init=_branch_init,
            dtype=dtype,
            name=f"conv{index}",
        )
        x = norm_act(name=f"norm{index}")(conv(x))
    return x
