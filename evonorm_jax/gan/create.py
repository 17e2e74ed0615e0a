"""Name -> both players: `create_gan("biggan_deep_128", 1000, norm_act="evonorm_s0")`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.typing import Dtype

from evonorm_jax.errors import UserError
from evonorm_jax.gan.discriminator import Discriminator
from evonorm_jax.gan.generator import Generator, ModuleFactory
from evonorm_jax.gan.spectral_norm import SpectralNorm
from evonorm_jax.gan.stages import FIRST_SIZE, STAGES
from evonorm_jax.models.classifier import check_positive, check_positive_int
from evonorm_jax.models.registry import find, float_dtype
from evonorm_jax.norm_act import norm_act as bind_layer

_IMAGE_SIZES = {f"biggan_deep_{size}": size for size in STAGES}


class ParameterCounts(NamedTuple):
    """The numbers of trainable values of both players."""

    generator: int
    discriminator: int


@dataclasses.dataclass(frozen=True)
class Gan:
    """A generator and a discriminator that belong together.

    Attributes:
      generator: Generator; `generator.apply(variables, z, labels, train=..., mutable=...)` gives
        images `[N, size, size, C]` in (-1, 1). Its `network` is a `Generator`.
      discriminator: Discriminator; `discriminator.apply(variables, images, labels, mutable=...)`
        gives scores `[N]`. Its `network` is a `Discriminator`.
      image_size: Height and width of the images in pixels.
    """

    generator: SpectralNorm
    discriminator: SpectralNorm
    image_size: int

    @property
    def num_classes(self) -> int:
        """Number of classes that both players know."""
        return self._generator.num_classes

    @property
    def z_dim(self) -> int:
        """Length of a noise vector."""
        return self._generator.z_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.image_size, self.image_size, self._generator.image_channels

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Initialises the variables of the generator and of the discriminator.

        Both have `params` and `spectral`. The generator also has `batch_stats` where its layers
        keep statistics. All values are drawn on the host, and nothing of the networks is compiled.
        """
        generator_key, discriminator_key = jax.random.split(key)
        z, labels, images = self.shapes()
        return (
            self.generator.init(generator_key, z, labels),
            self.discriminator.init(discriminator_key, images, labels),
        )

    def num_parameters(self) -> ParameterCounts:
        """Counts the trainable values of each player; draws and compiles nothing.

        >>> create_gan("biggan_deep_128", num_classes=1000, norm_act="bn_relu").num_parameters()
        ParameterCounts(generator=50244484, discriminator=34590210)
        """
        z, labels, images = self.shapes()
        generator = jax.eval_shape(self.generator.network.init, jax.random.key(0), z, labels)
        discriminator = jax.eval_shape(
            self.discriminator.network.init, jax.random.key(0), images, labels
        )
        return ParameterCounts(_size(generator["params"]), _size(discriminator["params"]))

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes and dtypes of noise, labels and images for a batch of one."""
        return (
            jax.ShapeDtypeStruct((1, self.z_dim), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
            jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32),
        )

    @property
    def _generator(self) -> Generator:
        network = self.generator.network
        assert isinstance(network, Generator)
        return network


def gan_names() -> tuple[str, ...]:
    """Returns the names that `create_gan` accepts."""
    return tuple(_IMAGE_SIZES)


def create_gan(
    name: str,
    num_classes: int,
    norm_act: str | ModuleFactory = "evonorm_s0",
    dtype: Dtype = jnp.float32,
    norm_act_fields: Mapping[str, Any] | None = None,
    *,
    num_filters: int = 128,
    discriminator_num_filters: int | None = None,
    z_dim: int = 128,
    embedding_dim: int = 128,
    image_channels: int = 3,
    attention_size: int | None = None,
    head_features: int | None = None,
    spectral_epsilon: float = 1e-6,
) -> Gan:
    """Builds a BigGAN-deep; its generator has all norms and activations from `norm_act`.

    The discriminator normalises its kernels alone and has ReLU activations, as the paper swaps
    layers in the generator only.

    Args:
      name: One of `gan_names()`; the number is the height and width of the images in pixels.
      num_classes: Number of classes of the data set, at least 2.
      norm_act: Norm-activation layer, given by its name, its class or a factory
        (`evonorm_jax.norm_act`).
      dtype: Floating-point dtype of convolutions and layers, as a type or by name.
      norm_act_fields: Fields of the layer, such as `{"group_size": 8}`.
      num_filters: Unit of the widths of both players, the paper's ch.
      discriminator_num_filters: Unit of the widths of the discriminator; None means `num_filters`.
      z_dim: Length of a noise vector.
      embedding_dim: Length of the embedding of a class in the generator.
      image_channels: Number of channels of the images: 3 for RGB, 1 for grey.
      attention_size: Side in pixels of the maps that get the non-local block; 0 for no such block,
        None for the side in `evonorm_jax.gan.stages.STAGES`.
      head_features: Number of output channels of the generator's last convolution, of which the
        first are the image; None means `image_channels`.
      spectral_epsilon: Least norm that `SpectralNorm` divides a vector by, and least sigma.

    Raises:
      UserError: The name or the layer is unknown, or a value is out of range.

    >>> gan = create_gan("biggan_deep_32", 10, norm_act="evonorm_s0", num_filters=16)
    >>> gan.image_shape, gan.z_dim
    ((32, 32, 3), 128)
    """
    image_size = find(name, _IMAGE_SIZES, kind="network")
    stages = STAGES[image_size]
    if discriminator_num_filters is None:
        discriminator_num_filters = num_filters
    if attention_size is None:
        attention_size = stages.attention_size
    attention = attention_size or None
    for field, value in (("z_dim", z_dim), ("embedding_dim", embedding_dim)):
        check_positive_int(field, value)
    _check_classes(num_classes)
    _check_attention(name, image_size, attention)
    _check_width("num_filters", num_filters, stages.generator, attention)
    _check_width(
        "discriminator_num_filters", discriminator_num_filters, stages.discriminator, attention
    )
    _check_channels(image_channels, head_features)
    check_positive("spectral_epsilon", spectral_epsilon)
    generator = Generator(
        widths=stages.generator,
        num_classes=num_classes,
        norm_act=bind_layer(norm_act, **(norm_act_fields or {})),
        num_filters=num_filters,
        z_dim=z_dim,
        embedding_dim=embedding_dim,
        attention_size=attention,
        image_channels=image_channels,
        head_features=head_features,
        dtype=float_dtype(dtype),
    )
    discriminator = Discriminator(
        widths=stages.discriminator,
        num_classes=num_classes,
        image_size=image_size,
        num_downsampled=stages.num_downsampled,
        num_filters=discriminator_num_filters,
        attention_size=attention,
        dtype=float_dtype(dtype),
    )
    return Gan(
        # The class embedding of the generator stays as it is: normalised it cripples the
        # generator, says the first author's code.
        SpectralNorm(generator, epsilon=spectral_epsilon),
        SpectralNorm(discriminator, names=("kernel", "embedding"), epsilon=spectral_epsilon),
        image_size,
    )


def _check_classes(num_classes: object) -> None:
    if type(num_classes) is not int or num_classes < 2:
        raise UserError(
            f"num_classes={num_classes!r}: a class-conditional GAN needs at least 2; with one "
            "there is nothing to condition on."
        )


def _check_attention(name: str, image_size: int, attention_size: int | None) -> None:
    """Raises `UserError` unless both players have maps of this side: 8 pixels to half the image."""
    stages = STAGES[image_size]
    sizes = [image_size // 2**i for i in range(1, stages.num_downsampled + 1)]
    sizes = [size for size in sizes if size > FIRST_SIZE]
    if attention_size is not None and attention_size not in sizes:
        known = f"{', '.join(map(str, sizes))} or 0" if sizes else "0"
        raise UserError(
            f"attention_size={attention_size}: {name} has no maps of that side in both players; "
            f"choose {known}."
        )


def _check_width(
    field: str, num_filters: int, widths: tuple[int, ...], attention_size: int | None
) -> None:
    check_positive_int(field, num_filters)
    # Inside a block is a quarter of its width, inside the non-local block an eighth.
    divisor = 8 if attention_size else 4
    if num_filters * min(widths) % divisor:
        raise UserError(
            f"{field}={num_filters}: the narrowest block is {min(widths)} times as wide and "
            f"divides that by {divisor}; take a multiple of "
            f"{divisor // math.gcd(divisor, min(widths))}."
        )


def _check_channels(image_channels: int, head_features: int | None) -> None:
    check_positive_int("image_channels", image_channels)
    if head_features is None:
        return
    check_positive_int("head_features", head_features)
    if head_features < image_channels:
        raise UserError(
            f"head_features={head_features}: the image has {image_channels} channels, so give at "
            "least that many, or None."
        )


def _size(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
