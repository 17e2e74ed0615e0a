"""The discriminator of BigGAN-deep, which normalises its kernels alone, by their spectral norm.

Source: Brock, Donahue and Simonyan 2019 (arXiv:1809.11096), appendix B, Figure 16 and Table 7; the
order of the operations is that of the first author's PyTorch code.

    block       ReLU, 1x1 to C_out/4, ReLU, 3x3, ReLU, 3x3, ReLU, [average pool], 1x1 to C_out
    skip        x, [average pool], beside a 1x1 of it that makes the channels that are missing
    network     3x3, blocks, ReLU, sum over the map = h; linear(h) + <class embedding, h>
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.gan.layers import NonLocal, conv, dense
from evonorm_jax.gan.orthogonal import orthogonal
from evonorm_jax.models.classifier import check_images
from evonorm_jax.models.convolution import avg_pool


class DiscriminatorBlock(nn.Module):
    """A residual block from `[N, H, W, C]` to `[N, H, W, features]`, or half as high and wide.

    Attributes:
      features: Number of output channels, at least that of the input.
      downsample: Whether the block halves the height and width of the map.
      dtype: Dtype of the convolutions.
    """

    features: int
    downsample: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        convolve = functools.partial(conv, dtype=self.dtype)
        hidden = self.features // 4
        y = convolve(hidden, 1, name="conv1")(nn.relu(x))
        y = convolve(hidden, 3, name="conv2")(nn.relu(y))
        y = convolve(hidden, 3, name="conv3")(nn.relu(y))
        y = nn.relu(y)
        if self.downsample:
            x, y = avg_pool(x, 2), avg_pool(y, 2)
        y = convolve(self.features, 1, name="conv4")(y)
        if missing := self.features - x.shape[-1]:
            x = jnp.concatenate([x, convolve(missing, 1, name="shortcut_conv")(x)], axis=-1)
        return x + y


class Discriminator(nn.Module):
    """A network from images `[N, size, size, C]` and their classes to scores `[N]`, float32.

    Parameters are float32, under `stem_conv`, `stage<i>_block<j>/conv<k>`, `non_local`, `linear`
    and `class_embedding`. `create_gan` runs the network inside `SpectralNorm`, which normalises the
    kernels and the embedding.

    Attributes:
      widths: Widths as multiples of `num_filters`: first that of the convolution on the image, then
        that of each stage of two blocks.
      num_classes: Number of classes, the rows of the class embedding.
      image_size: Height and width of the images in pixels.
      num_downsampled: Number of stages, from the first on, that halve the map in their first block.
      num_filters: Unit of the widths, the paper's ch.
      attention_size: Side in pixels of the maps that get the non-local block; None for no such
        block.
      dtype: Dtype of the convolutions. The sum over the map and all that follows are float32.
    """

    widths: Sequence[int]
    num_classes: int
    image_size: int
    num_downsampled: int
    num_filters: int = 128
    attention_size: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Scores images; the hinge loss is 0 for real ones above 1 and others below -1.

        Args:
          images: Images `[N, H, W, C]` in floating point, from -1 to 1.
          labels: Classes of the images, `[N]` integers from 0 to num_classes - 1.

        Raises:
          UserError: The images or the labels have another shape or dtype.
        """
        check_images(images, self.get_variable("params", "stem_conv"))
        if images.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"images are {images.shape[1]}x{images.shape[2]} pixels: this discriminator is for "
                f"{self.image_size}x{self.image_size}; crop and resize them first."
            )
        if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise UserError(
                f"labels are {labels.dtype}{list(labels.shape)}: expected integers "
                f"[{images.shape[0]}], one for each image."
            )
        width = self.widths[0] * self.num_filters
        x = conv(width, 3, dtype=self.dtype, name="stem_conv")(images)
        for stage, multiple in enumerate(self.widths[1:], start=1):
            block = functools.partial(
                DiscriminatorBlock, multiple * self.num_filters, dtype=self.dtype
            )
            downsample = stage <= self.num_downsampled
            x = block(downsample=downsample, name=f"stage{stage}_block1")(x)
            x = block(name=f"stage{stage}_block2")(x)
            if downsample and x.shape[1] == self.attention_size:
                x = NonLocal(dtype=self.dtype, name="non_local")(x)
        h = jnp.sum(nn.relu(x), axis=(1, 2), dtype=jnp.float32)
        embed = nn.Embed(
            self.num_classes, h.shape[-1], embedding_init=orthogonal, name="class_embedding"
        )
        return dense(1, name="linear")(h)[:, 0] + jnp.sum(embed(labels) * h, axis=-1)
