"""Boxes, masks and names drawn into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# Okabe and Ito's colours, which the colour-blind can tell apart, but for black.
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_OPACITY = 0.45  # of masks
_MIN_SIDE = 256  # pixels; smaller pictures are enlarged by a whole number
_TEXT_HEIGHT = 12  # pixels
_GAP = 4  # pixels between the pictures of a sheet


class Drawn(NamedTuple):
    """An object to draw.

    Attributes:
      box: Box `(y1, x1, y2, x2)` in pixels of the picture.
      mask: Mask of the whole picture, `[h, w]` bool.
      text: Text that is written at the box; "" for none.
    """

    box: Sequence[float]
    mask: np.ndarray
    text: str = ""


def draw_objects(picture: np.ndarray, objects: Sequence[Drawn]) -> Image.Image:
    """Draws objects into a copy of a picture, the first on top.

    Objects take seven colours in turn. A small picture is enlarged by a whole number, so that its
    longer side has about 256 pixels.

    Args:
      picture: Picture `[h, w, 3]` uint8, which is left unchanged.
      objects: Objects to draw.

    Returns:
      The drawing, in RGB.
    """
    pixels = picture.astype(np.float32)
    coloured = [(one, _COLOURS[i % len(_COLOURS)]) for i, one in enumerate(objects)][::-1]
    for one, colour in coloured:
        mixed = (1 - _OPACITY) * pixels[one.mask] + _OPACITY * np.array(colour, np.float32)
        pixels[one.mask] = mixed
    zoom = max(1, round(_MIN_SIDE / max(picture.shape[:2])))
    image = Image.fromarray(np.round(pixels).astype(np.uint8))
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for one, colour in coloured:
        y1, x1, y2, x2 = (zoom * float(side) for side in one.box)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour)
        if one.text:
            place = (x1, max(y1 - _TEXT_HEIGHT, 0))
            draw.rectangle(draw.textbbox(place, one.text), fill=colour)
            draw.text(place, one.text, fill=(0, 0, 0))
    return image


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Puts the pictures of each row side by side and the rows below one another, on black."""
    heights = [max(image.height for image in row) for row in rows]
    columns = [max(image.width for image in column) for column in zip(*rows, strict=True)]
    width, height = (sum(sides) + _GAP * (len(sides) - 1) for sides in (columns, heights))
    whole = Image.new("RGB", (width, height))
    top = 0
    for row, row_height in zip(rows, heights, strict=True):
        left = 0
        for image, column in zip(row, columns, strict=True):
            whole.paste(image, (left, top))
            left += column + _GAP
        top += row_height + _GAP
    return whole
