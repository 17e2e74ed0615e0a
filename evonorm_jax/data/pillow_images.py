"""Decoding of image files by Pillow: whole sets into memory, and what TensorFlow cannot decode.

Every image file of the project is opened here. Pillow knows some forty formats, of which one starts
another program (PostScript, by Ghostscript) and several are hardly used; only `FORMATS` are tried,
whatever a file is called.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from evonorm_jax.errors import UserError
from evonorm_jax.input_files import check_regular, printable

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Beyond this Pillow, too, takes a file for a decompression bomb; 0.5 GB as RGB.
MAX_PIXELS = 178_956_970

# What Pillow raises for a file that is damaged or no image.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "area": Image.Resampling.BOX}
# What turns an image upright, by its orientation in EXIF 2.32, section 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Opens an image file in one of `FORMATS` of up to `MAX_PIXELS` pixels; decodes nothing yet.

    Raises:
      UserError: A path names no regular file.
      Exception: One of `DECODING_ERRORS`.
    """
    if isinstance(file, str | Path):
        check_regular(file)
    image: Image.Image = Image.open(file, formats=FORMATS)
    if image.height * image.width > MAX_PIXELS:
        image.close()
        raise Image.DecompressionBombError(
            f"{image.height} x {image.width} pixels, but at most {MAX_PIXELS:,} are decoded"
        )
    return image


def decode_image(
    file: str | Path | BinaryIO, channels: int, *, upright: bool = True
) -> Image.Image:
    """Decodes the first frame of an image file in any colours, as RGB (3 channels) or grey (1).

    Args:
      file: A path, or the opened file.
      channels: 3 or 1.
      upright: Whether a photograph is turned as its EXIF orientation says.

    Raises:
      UserError: A path names no regular file.
      Exception: One of `DECODING_ERRORS`.
    """
    with open_image(file) as image:
        turn = _TURNS.get(read_orientation(image)) if upright else None
        decoded = to_colours(image, channels)
        return decoded if turn is None else decoded.transpose(turn)


def to_colours(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image in any colours as RGB (3 channels) or grey (1)."""
    # A palette with transparency goes by RGBA (Pillow's advice), and 16-bit grey must be scaled by
    # hand, since `convert` clips it to 255.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB" if channels == 3 else "L")


def read_orientation(image: Image.Image) -> int:
    """Returns how an image lies according to its EXIF, 1 (upright) to 8; 1 where it does not say.

    EXIF that follows the pixels, as PNG allows, is not looked for.
    """
    # By hand, since Pillow warns of damaged EXIF, which is common, and reads all of it.
    tiff = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(count):
            fields = struct.unpack_from(f"{order}HHLH", tiff, start + 2 + 12 * entry)
            if fields[:3] == (0x0112, 3, 1):  # Orientation, one unsigned short
                return fields[3] if fields[3] in _TURNS else 1
    except struct.error:  # the file ends before it should
        pass
    return 1


def read_image(
    path: str,
    *,
    size: int,
    resize: int,
    channels: int,
    resize_method: str = "bicubic",
    upright: bool = True,
) -> np.ndarray:
    """Decodes an image file to uint8 `[size, size, channels]`.

    Unless it has `size` pixels already, its centre is cut out and resized to that, such that the
    whole shorter side would become `resize`.

    Raises:
      UserError: The file cannot be decoded; the message names it.
    """
    try:
        image = decode_image(path, channels, upright=upright)
    except UserError:
        raise
    except DECODING_ERRORS as error:
        raise UserError(
            f"The image '{printable(path)}' cannot be decoded ({describe(error)}): replace or"
            " remove the file."
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


def describe(error: Exception) -> str:
    """Returns why an image could not be decoded, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):  # it shows the path, or a stream's address
        return f"it is none of {', '.join(FORMATS)}, or damaged"
    return " ".join(str(error).split()) or type(error).__name__
