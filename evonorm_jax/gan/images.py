"""Pixels of generated images."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def to_uint8(images: jax.Array) -> jax.Array:
    """Images from -1 to 1 as a PNG file has them, uint8 of the same shape.

    >>> to_uint8(jnp.array([-1.0, 0.0, 1.0, 2.0])).tolist()
    [0, 128, 255, 255]
    """
    return jnp.clip(jnp.round((images.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


def from_uint8(images: jax.Array) -> jax.Array:
    """Pixels from 0 to 255 as the players take them: float32 from -1 to 1.

    >>> from_uint8(jnp.array([0, 255], jnp.uint8)).tolist()
    [-1.0, 1.0]
    """
    return images.astype(jnp.float32) / 127.5 - 1
