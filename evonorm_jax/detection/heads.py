"""The three heads of Mask R-CNN: region proposals, boxes with their classes, and masks.

They follow He et al., "Mask R-CNN" (arXiv:1703.06870), in the form of the authors' TensorFlow code
(tensorflow/tpu, models/official/detection). A norm-activation layer follows the dense layer and
every convolution but the last. The parameter counts in Table 4 of the EvoNorm paper determine this
layout. The last linear map of every branch computes in float32, because its output feeds a loss.

In the box and mask heads the leading axis counts regions instead of images. Batch statistics must
still be taken over the regions of as many images as before, and `per_region` sees to that.
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
    """Returns the layer for batches of `num_regions` regions per image, in the order of the images.

    The field `virtual_batch_size` counts images in the rest of the network. In the layer returned
    it counts regions.

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
    """The region proposal network: an objectness logit and four deltas for every anchor.

    All levels share the convolutions, and every level has norm-activation layers of its own.

    Parameters: `conv<i>`, `level<l>_norm<i>`, `scores`, `deltas`.

    Attributes:
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      num_anchors: Number A of anchors at every pixel.
      num_convs: Number of 3x3 convolutions before the last linear maps.
      num_filters: Number of channels of these convolutions.
      dtype: Dtype of convolutions and layers.
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
        """Returns the answers for the anchors of every level.

        Args:
          maps: Feature maps `[N, H, W, C]` by level.
          train: Whether the layers take the statistics of the batch.

        Returns:
          Logits `[N, H * W * A]` by level and deltas `[N, H * W * A, 4]` by level, both float32.
        """
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
            scores[level] = score(x).reshape(x.shape[0], -1)
            deltas[level] = delta(x).reshape(x.shape[0], -1, 4)
        return scores, deltas


class BoxHead(nn.Module):
    """The box head: the classes of regions, and a box of each region for every class.

    Parameters: `conv<i>`, `norm<i>`, `dense`, `dense_norm`, `classes`, `deltas`.

    Attributes:
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      num_classes: Number K of classes, the background included.
      num_convs: Number of 3x3 convolutions before the dense layer.
      num_filters: Number of channels of these convolutions.
      num_units: Number of output channels of the dense layer.
      dtype: Dtype of convolutions and layers.
    """

    norm_act: NormActFactory
    num_classes: int
    num_convs: int
    num_filters: int
    num_units: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Classifies regions and corrects their boxes.

        Args:
          regions: Features of R regions per image, `[N, R, S, S, C]`.
          train: Whether the layers take the statistics of the batch.

        Returns:
          Logits `[N, R, K]` of the classes and deltas `[N, R, K, 4]` of the boxes, both float32.
        """
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
        x = x.reshape(x.shape[0], -1)
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
    """The mask head: the mask of each region for one given class.

    Parameters: `conv<i>`, `norm<i>`, `upsample_conv`, `upsample_norm`, `masks`.

    Attributes:
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      num_classes: Number of classes, the background included.
      num_convs: Number of 3x3 convolutions before the transposed convolution.
      num_filters: Number of channels of these convolutions and of the transposed one.
      dtype: Dtype of convolutions and layers.
    """

    norm_act: NormActFactory
    num_classes: int
    num_convs: int
    num_filters: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array, classes: jax.Array, train: bool = False) -> jax.Array:
        """Computes the masks of regions.

        Args:
          regions: Features of R regions per image, `[N, R, S, S, C]`.
          classes: Class of each region, `[N, R]` integers.
          train: Whether the layers take the statistics of the batch.

        Returns:
          Logits `[N, R, 2 S, 2 S]` float32 of the masks of these classes.
        """
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
    """Applies 3x3 convolutions with a layer behind each; must be called in a compact method."""
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
