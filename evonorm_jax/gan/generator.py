"""The generator of BigGAN-deep, with any norm-activation layer.

Source: Brock, Donahue and Simonyan 2019 (arXiv:1809.11096), appendix B, Figure 16 and Table 7;
where the paper is silent, the published generator (huggingface/pytorch-pretrained-BigGAN).

    condition   [z, embedding of the class], whole to every block
    block       layer, 1x1 to C_in/4, layer, [up], 3x3, layer, 3x3, layer, 1x1 to C_out
    skip        the first C_out channels of x, [up]
    network     linear to 4x4, blocks, layer, 3x3, tanh

Every norm-activation layer of a block is conditional (`ConditionalNormAct`); the last one of the
network is not. All of them normalise and activate, so EvoNorm fits everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.gan.layers import NonLocal, conv, dense, upsample
from evonorm_jax.gan.orthogonal import orthogonal
from evonorm_jax.gan.stages import FIRST_SIZE
from evonorm_jax.layers import ConditionalNormAct

ModuleFactory = type[nn.Module] | functools.partial  # what `norm_act` returns, or a bare class


class GeneratorBlock(nn.Module):
    """A residual block from `[N, H, W, C]` to `[N, H, W, features]`, or twice as high and wide.

    Attributes:
      features: Number of output channels, at most that of the input.
      norm_act: Factory of layers that are called with a map and the condition.
      upsample: Whether the block doubles the height and width of the map.
      dtype: Dtype of the convolutions.
    """

    features: int
    norm_act: ModuleFactory
    upsample: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        convolve = functools.partial(conv, dtype=self.dtype)
        hidden = x.shape[-1] // 4
        skip = x[..., : self.features]
        y = self.norm_act(name="norm1")(x, condition)
        y = convolve(hidden, 1, name="conv1")(y)
        y = self.norm_act(name="norm2")(y, condition)
        if self.upsample:
            skip, y = upsample(skip), upsample(y)
        y = convolve(hidden, 3, name="conv2")(y)
        y = self.norm_act(name="norm3")(y, condition)
        y = convolve(hidden, 3, name="conv3")(y)
        y = self.norm_act(name="norm4")(y, condition)
        return skip + convolve(self.features, 1, name="conv4")(y)


class Generator(nn.Module):
    """A network from noise and classes to images `[N, size, size, image_channels]` in (-1, 1).

    Parameters are float32, under `class_embedding`, `linear`, `stage<i>_block<j>/norm<k>` and
    `.../conv<k>`, `non_local`, `head_norm` and `head_conv`. Batch-dependent layers keep their
    statistics in `batch_stats` under the same names. `create_gan` runs the network inside
    `SpectralNorm`, which normalises the kernels.

    Attributes:
      widths: Widths as multiples of `num_filters`. Each stage of two blocks goes from one width to
        the next and doubles the side of the map, which starts at 4 pixels.
      num_classes: Number of classes, the rows of the class embedding.
      norm_act: Factory of the norm-activation layers (see `evonorm_jax.norm_act`).
      num_filters: Unit of the widths, the paper's ch.
      z_dim: Length of a noise vector.
      embedding_dim: Length of the embedding of a class, which all blocks share.
      attention_size: Side in pixels of the maps that get the non-local block; None for no such
        block.
      image_channels: Number of channels of the images: 3 for RGB, 1 for grey.
      head_features: Number of output channels of the last convolution, of which the first
        `image_channels` are the image. None means `image_channels`; the published weights have
        `num_filters`.
      dtype: Dtype of convolutions and layers. The condition and the final tanh are float32.
    """

    widths: Sequence[int]
    num_classes: int
    norm_act: ModuleFactory
    num_filters: int = 128
    z_dim: int = 128
    embedding_dim: int = 128
    attention_size: int | None = None
    image_channels: int = 3
    head_features: int | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        """Generates images.

        Args:
          z: Noise `[N, z_dim]` in floating point.
          labels: Classes `[N]`, integers from 0 to num_classes - 1; or weights of the classes
            `[N, num_classes]` in floating point, to interpolate between classes.
          train: Whether the layers take the statistics of the batch.

        Returns:
          Images `[N, size, size, image_channels]`, float32.

        Raises:
          UserError: `z` or `labels` has another shape or dtype.
        """
        condition = jnp.concatenate([z.astype(jnp.float32), self._embed(z, labels)], axis=-1)
        norm_act = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        conditional = functools.partial(ConditionalNormAct, norm_act, dense=dense)
        block = functools.partial(GeneratorBlock, norm_act=conditional, dtype=self.dtype)

        first = self.widths[0] * self.num_filters
        x = dense(FIRST_SIZE**2 * first, name="linear")(condition)
        x = x.reshape(-1, FIRST_SIZE, FIRST_SIZE, first).astype(self.dtype)
        for stage, width in enumerate(self.widths[1:], start=1):
            x = block(x.shape[-1], name=f"stage{stage}_block1")(x, condition)
            features = width * self.num_filters
            x = block(features, upsample=True, name=f"stage{stage}_block2")(x, condition)
            if x.shape[1] == self.attention_size:
                x = NonLocal(dtype=self.dtype, name="non_local")(x)
        x = norm_act(name="head_norm")(x)
        features = self.head_features or self.image_channels
        x = conv(features, 3, dtype=self.dtype, name="head_conv")(x)
        return jnp.tanh(x[..., : self.image_channels].astype(jnp.float32))

    def _embed(self, z: jax.Array, labels: jax.Array) -> jax.Array:
        if z.ndim != 2 or z.shape[1] != self.z_dim or not jnp.issubdtype(z.dtype, jnp.floating):
            raise UserError(
                f"z is {z.dtype}{list(z.shape)}: expected floating-point noise [N, {self.z_dim}]."
            )
        embed = nn.Embed(
            self.num_classes, self.embedding_dim, embedding_init=orthogonal, name="class_embedding"
        )
        n = z.shape[0]
        if labels.shape == (n,) and jnp.issubdtype(labels.dtype, jnp.integer):
            return embed(labels)
        if labels.shape == (n, self.num_classes) and jnp.issubdtype(labels.dtype, jnp.floating):
            return labels.astype(jnp.float32) @ embed.embedding
        raise UserError(
            f"labels are {labels.dtype}{list(labels.shape)}: expected integers [{n}], one for each "
            f"row of z, or floating-point weights of the classes [{n}, {self.num_classes}]."
        )
