"""Augmentation inside the compiled step, for images that live on the devices.

Each function takes one image `[H, W, C]` and one key, so what happens to an example depends on its
own key alone and never on the batch or the devices around it. The loop maps over the batch.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_ERASING_TRIALS = 10


def random_crop(key: jax.Array, image: jax.Array, size: int, pad: int = 0) -> jax.Array:
    """Cuts a `size` x `size` window out of the image with `pad` pixels added on every side.

    Padding is zero in the image's own units (black), before normalisation, as is usual for CIFAR
    (He et al., 2016, section 4.2: pad 4, crop 32). `pad=0` is the plain random crop.
    """
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    limits = jnp.array([padded.shape[0] - size + 1, padded.shape[1] - size + 1])
    top, left = jax.random.randint(key, (2,), 0, limits)
    return jax.lax.dynamic_slice(padded, (top, left, 0), (size, size, image.shape[-1]))


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors the image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def augment(key: jax.Array, image: jax.Array, *, size: int, pad: int, flip: bool) -> jax.Array:
    """Crops at random, then flips at random; keeps the dtype and returns `[size, size, C]`."""
    crop_key, flip_key = jax.random.split(key)
    if pad or size != image.shape[0] or size != image.shape[1]:
        image = random_crop(crop_key, image, size, pad)
    return random_flip(flip_key, image) if flip else image


def random_erasing(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Fills a rectangle of a normalised image with noise (Zhong et al., arXiv:1708.04896).

    The rectangle takes 2 % to 33 % of the area, has an aspect ratio of 0.3 to 1 / 0.3 (uniform in
    its logarithm) and lies anywhere in the image. Of ten that are drawn the first one counts that
    is smaller than the image; an image for which none is stays whole. The noise is standard normal
    in every pixel and channel.
    """
    keys = jax.random.split(key, 5)
    height, width = image.shape[:2]
    area = jax.random.uniform(keys[0], (_ERASING_TRIALS,), minval=0.02, maxval=1 / 3)
    limit = -math.log(0.3)
    ratio = jnp.exp(jax.random.uniform(keys[1], (_ERASING_TRIALS,), minval=-limit, maxval=limit))
    heights = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    size = jnp.stack([heights, widths])[:, jnp.argmax(fits)]
    first = jax.random.randint(keys[2], (2,), 0, jnp.array([height, width]) - size + 1)
    rows, columns = (
        (jnp.arange(length) >= first[axis]) & (jnp.arange(length) < first[axis] + size[axis])
        for axis, length in enumerate((height, width))
    )
    chosen = jax.random.bernoulli(keys[3], probability) & jnp.any(fits)
    erased = (rows[:, None] & columns[None, :] & chosen)[..., None]
    return jnp.where(erased, jax.random.normal(keys[4], image.shape, image.dtype), image)


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Computes `(images - mean) / std` per channel in float32; both in the units 0 ... 255.

    >>> normalize(jnp.full((1, 1, 1, 1), 200, jnp.uint8), (100.0,), (50.0,)).item()
    2.0
    """
    mean_array, std_array = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)
    return (images.astype(jnp.float32) - mean_array) / std_array
