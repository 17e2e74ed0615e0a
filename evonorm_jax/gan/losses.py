"""The losses of both players; the loss of one player moves nothing of the other.

Both take the hinge loss (Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957):

    discriminator   mean(max(0, 1 - D(real))) + mean(max(0, 1 + D(fake)))
    generator       -mean(D(fake))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from evonorm_jax.gan.create import Gan
from evonorm_jax.gan.spectral_norm import COLLECTION

Variables = Mapping[str, Any]


class DiscriminatorLoss(NamedTuple):
    """The parts of the discriminator's loss, float32 scalars, and its updated variables.

    Attributes:
      loss: Sum of `loss_real` and `loss_fake`.
      loss_real: Hinge loss of the real images.
      loss_fake: Hinge loss of the generator's images.
      score_real: Mean score D of the real images.
      score_fake: Mean score D of the generator's images.
      updates: Collection `spectral` of the discriminator after the step, in a dictionary.
    """

    loss: jax.Array
    loss_real: jax.Array
    loss_fake: jax.Array
    score_real: jax.Array
    score_fake: jax.Array
    updates: dict[str, Any]


def discriminator_loss(
    gan: Gan,
    variables: Variables,
    real: tuple[jax.Array, jax.Array],
    fake: tuple[jax.Array, jax.Array],
) -> DiscriminatorLoss:
    """Computes the loss of the discriminator on real and generated images.

    Both are scored in one call, so that one step of the power method serves both. No gradient
    reaches the network that generated the fake images.

    Args:
      gan: Both players.
      variables: Variables of the discriminator.
      real: Images `[N, H, W, C]` and labels `[N]` of the data.
      fake: Images `[M, H, W, C]` and labels `[M]` of the generator.
    """
    images = jnp.concatenate([real[0], jax.lax.stop_gradient(fake[0])])
    labels = jnp.concatenate([real[1], fake[1]])
    scores, updates = gan.discriminator.apply(variables, images, labels, mutable=[COLLECTION])
    real_scores, fake_scores = jnp.split(scores, [real[0].shape[0]])
    loss_real = jnp.mean(nn.relu(1 - real_scores))
    loss_fake = jnp.mean(nn.relu(1 + fake_scores))
    return DiscriminatorLoss(
        loss_real + loss_fake,
        loss_real,
        loss_fake,
        jnp.mean(real_scores),
        jnp.mean(fake_scores),
        updates,
    )


def generator_loss(
    gan: Gan, variables: Variables, discriminator: Variables, z: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Computes the loss of the generator, a float32 scalar, and its updated variables.

    The discriminator stays as it is: its variables get no gradient, and its power method takes no
    step.

    Args:
      gan: Both players.
      variables: Variables of the generator.
      discriminator: Variables of the discriminator.
      z: Noise, `[N, z_dim]`.
      labels: Classes to generate, `[N]` integers.

    Returns:
      The loss, and a dictionary of the updated `spectral` and, if there is any, `batch_stats`.
    """
    images, updates = generate(gan, variables, z, labels)
    discriminator = jax.lax.stop_gradient(dict(discriminator))
    return -jnp.mean(gan.discriminator.apply(discriminator, images, labels)), updates


def generate(
    gan: Gan, variables: Variables, z: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Generates images in training mode.

    Args:
      gan: Both players.
      variables: Variables of the generator.
      z: Noise, `[N, z_dim]`.
      labels: Classes to generate, `[N]` integers.

    Returns:
      Images `[N, size, size, C]`, float32, and a dictionary of the updated `spectral` and, if there
      is any, `batch_stats`.
    """
    return gan.generator.apply(
        variables, z, labels, train=True, mutable=[COLLECTION, "batch_stats"]
    )


def orthogonal_penalty(params: Mapping[str, Any]) -> jax.Array:
    """Sums `|W^T W * (1 - I)|^2` over all kernels W `[K, C_out]`.

    The terms are the squared products of different columns, so the norms of the columns stay free.
    Source: arXiv:1809.11096, equation 3.

    >>> float(orthogonal_penalty({"conv": {"kernel": jnp.array([[2.0, 1.0], [0.0, 3.0]])}}))
    8.0
    """
    total = jnp.zeros(())
    for path, kernel in traverse_util.flatten_dict(params).items():
        if path[-1] == "kernel":
            w = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
            products = jnp.einsum("kc,kd->cd", w, w, precision=jax.lax.Precision.HIGHEST)
            total += jnp.sum(jnp.square(products * (1 - jnp.eye(len(products)))))
    return total
