"""Mixup and CutMix inside the compiled step: each example takes part of its neighbour's image.

Neighbours (2i and 2i + 1) lie on one device whatever the number of devices; batches are random
orders, so a neighbour is a random partner. What is drawn for an example depends on its own key
alone, and so does not depend on the devices either.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from evonorm_jax.training.parallel import keys_at


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    places: jax.Array,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[jax.Array, jax.Array]:
    """Applies mixup, CutMix, or where both are on one of the two to each example, evenly at random.

    Args:
      key: Key of the step, the same on every device.
      images: `[N, H, W, C]`, N even.
      targets: `[N, K]` probabilities.
      places: `[N]` positions of the examples in the global batch.
      mixup_alpha: Parameter of mixup's Beta distribution; 0 turns it off.
      cutmix_alpha: The same of CutMix.

    Returns:
      Mixed images and mixed targets.
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, targets
    if not cutmix_alpha:
        return mixup(key, images, targets, places, mixup_alpha)
    if not mixup_alpha:
        return cutmix(key, images, targets, places, cutmix_alpha)
    mixup_key, cutmix_key, choice_key = jax.random.split(key, 3)
    blended = mixup(mixup_key, images, targets, places, mixup_alpha)
    cut = cutmix(cutmix_key, images, targets, places, cutmix_alpha)
    choice = jax.vmap(jax.random.bernoulli)(keys_at(choice_key, places))
    return (
        jnp.where(choice[:, None, None, None], blended[0], cut[0]),
        jnp.where(choice[:, None], blended[1], cut[1]),
    )


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, places: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Blends each example with its neighbour (Zhang et al., arXiv:1710.09412).

    Args:
      key: Key of the step, the same on every device.
      images: `[N, H, W, C]`, N even.
      targets: `[N, K]` probabilities.
      places: `[N]` positions of the examples in the global batch.
      alpha: Both parameters of the Beta distribution.

    Returns:
      Mixed images and mixed targets.
    """
    own = jax.vmap(lambda k: jax.random.beta(k, alpha, alpha))(keys_at(key, places))
    weight = own[:, None, None, None]
    return (
        weight * images + (1 - weight) * _partners(images),
        own[:, None] * targets + (1 - own[:, None]) * _partners(targets),
    )


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, places: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of its neighbour into each example (Yun et al., arXiv:1905.04899, section 3).

    The box has the shape of the image, its centre is uniform in the image, and it ends at the
    border. Its area would be a Beta-distributed share of the image; targets are mixed by the area
    that is left of it.

    Args:
      key: Key of the step, the same on every device.
      images: `[N, H, W, C]`, N even.
      targets: `[N, K]` probabilities.
      places: `[N]` positions of the examples in the global batch.
      alpha: Both parameters of the Beta distribution.

    Returns:
      Mixed images and mixed targets.
    """
    height, width = images.shape[1:3]

    def box(key: jax.Array) -> jax.Array:
        share_key, row_key, column_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
        rows = _span(row_key, height, side)
        columns = _span(column_key, width, side)
        return rows[:, None] & columns[None, :]

    boxes = jax.vmap(box)(keys_at(key, places))
    own = 1 - jnp.mean(boxes.astype(targets.dtype), (1, 2))
    return (
        jnp.where(boxes[..., None], _partners(images), images),
        own[:, None] * targets + (1 - own[:, None]) * _partners(targets),
    )


def _span(key: jax.Array, size: int, share: jax.Array) -> jax.Array:
    """Marks a stretch of `share * size` pixels, rounded down, around a random one: `[size]`."""
    length = jnp.floor(size * share).astype(jnp.int32)
    first = jax.random.randint(key, (), 0, size) - length // 2
    pixels = jnp.arange(size)
    return (pixels >= first) & (pixels < first + length)


def _partners(x: jax.Array) -> jax.Array:
    """Swaps neighbours along the first axis."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
