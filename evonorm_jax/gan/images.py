"""Conversion between the pixels of files and those of the players."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def to_uint8(images: jax.Array) -> jax.Array:
    """Converts images from -1 to 1 to pixels from 0 to 255, uint8 of the same shape.

    >>> to_uint8(jnp.array([-1.0, 0.0, 1.0, 2.0])).tolist()
    [0, 128, 255, 255]
    """
    return jnp.clip(jnp.round((images.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


def from_uint8(images: jax.Array) -> jax.Array:
    """Converts pixels from 0 to 255 to images from -1 to 1, float32 of the same shape.

    >>> from_uint8(jnp.array([0, 255], jnp.uint8)).tolist()
    [-1.0, 1.0]
    """
    return images.astype(jnp.float32) / 127.5 - 1
