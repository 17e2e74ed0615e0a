"""BigGAN-deep: image synthesis with any norm-activation layer in the generator."""

from evonorm_jax.gan.create import Gan, ParameterCounts, create_gan, gan_names
from evonorm_jax.gan.discriminator import Discriminator
from evonorm_jax.gan.generator import Generator
from evonorm_jax.gan.spectral_norm import SpectralNorm

__all__ = [
    "Discriminator",
    "Gan",
    "Generator",
    "ParameterCounts",
    "SpectralNorm",
    "create_gan",
    "gan_names",
]
