"""Decoding of image files by Pillow: whole sets into memory, and what TensorFlow cannot decode."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from evonorm_jax.errors import UserError

# What Pillow raises for a file that is damaged or no image.
DECODING_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "area": Image.Resampling.BOX}


def decode_image(file: str | BinaryIO, channels: int) -> Image.Image:
    """Decodes the first frame of an image file in any colours, as RGB (3 channels) or grey (1).

    Raises:
      Exception: One of `DECODING_ERRORS`.
    """
    with Image.open(file) as image:
        return to_colours(image, channels)


def to_colours(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image in any colours as RGB (3 channels) or grey (1)."""
    # A palette with transparency goes by RGBA (Pillow's advice), and 16-bit grey must be scaled by
    # hand, since `convert` clips it to 255.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB" if channels == 3 else "L")


def read_image(
    path: str, *, size: int, resize: int, channels: int, resize_method: str = "bicubic"
) -> np.ndarray:
    """Decodes an image file to uint8 `[size, size, channels]`.

    Unless it has `size` pixels already, its centre is cut out and resized to that, such that the
    whole shorter side would become `resize`.

    Raises:
      UserError: The file cannot be decoded; the message names it.
    """
    try:
        image = decode_image(path, channels)
    except DECODING_ERRORS as error:
        raise UserError(
            f"The image '{path}' cannot be decoded ({error}): replace or remove the file."
        ) from error
    return crop_and_resize(image, size=size, resize=resize, resize_method=resize_method)


def crop_and_resize(
    image: Image.Image, *, size: int, resize: int, resize_method: str = "bicubic"
) -> np.ndarray:
    """Does what `read_image` does, to an image that `to_colours` returned."""
    if image.size != (size, size):
        side = min(image.size) * size / resize
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), _FILTERS[resize_method], box)
    return np.asarray(image).reshape(size, size, -1)
