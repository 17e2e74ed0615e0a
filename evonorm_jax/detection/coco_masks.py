"""Masks in the two forms of COCO's JSON: run lengths and polygons.

The library faster-coco-eval reads and writes both. It comes with the `detection` extra and is
imported when a function here is called.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import shorten


def import_faster_coco_eval() -> Any:
    """Imports faster-coco-eval and returns the module.

    Raises:
      UserError: The `detection` extra is not installed.
    """
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise UserError(
            "COCO's masks and its average precision need faster-coco-eval, and the import failed "
            f'({error}).\n  install, in the clone:  pip install -e ".[detection]"'
        ) from error


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a mask `[H, W]` bool as COCO's compressed run lengths.

    Returns:
      A dictionary of `size`, the list `[H, W]`, and `counts`, a string; `json.dumps` takes it.

    Raises:
      UserError: The `detection` extra is not installed.
    """
    library = import_faster_coco_eval()
    encoded = library.mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decodes the `segmentation` of an annotation.

    Args:
      segmentation: Polygons `[[x1, y1, x2, y2, ...], ...]`, or run lengths, compressed or not.
      size: Height and width of the image in pixels.

    Returns:
      The mask, `[H, W]` bool.

    Raises:
      UserError: `segmentation` has neither of these forms, a polygon has fewer than three points
        or lies far outside, the run lengths belong to an image of another size, or the `detection`
        extra is not installed. The message does not name the annotation, which is not known here.
    """
    check_segmentation(segmentation, size)
    library = import_faster_coco_eval()
    if isinstance(segmentation, list):
        encoded = library.mask.frPyObjects(segmentation, *size)
        return library.mask.decode(library.mask.merge(encoded)).astype(bool)
    try:
        if isinstance(segmentation["counts"], list):
            segmentation = library.mask.frPyObjects(segmentation, *size)
        return library.mask.decode(segmentation).astype(bool)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"run lengths that cannot be decoded ({error})") from error


def check_segmentation(segmentation: Any, size: tuple[int, int]) -> None:
    """Refuses without decoding what `decode_mask` would refuse, but for compressed run lengths.

    Args:
      segmentation: The `segmentation` of an annotation.
      size: Height and width of the image in pixels.

    Raises:
      UserError: As `decode_mask`.
    """
    height, width = size
    if isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon, max(size))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if segmentation["size"] != [height, width]:
            raise UserError(
                f"run lengths of a mask of {shorten(segmentation['size'])} in an image of "
                f"{[height, width]} (height, width)"
            )
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if {*map(type, counts)} != {int} or min(counts) < 0:
                raise UserError(f"run lengths {shorten(counts)}: expected whole numbers from 0")
            if sum(counts) != height * width:
                raise UserError(
                    f"run lengths of {shorten(sum(counts))} pixels for an image of {height * width}"
                )
        elif not isinstance(counts, str):
            raise UserError(f"run lengths {shorten(counts)}: expected a list or a text")
    else:
        raise UserError(
            "segmentation must be polygons or run lengths with size and counts, not "
            f"{shorten(segmentation)}"
        )


def _check_polygon(polygon: Any, side: int) -> None:
    """Raises `UserError` for what is no polygon, or is far outside of an image with this side.

    The library walks along the border of a polygon pixel by pixel, in memory as well.
    """
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise UserError(
            "a polygon must be a list of at least three points, x and y in turn, not "
            f"{shorten(polygon)}"
        )
    # By the extremes, in C: COCO's training split has 20 million numbers.
    if not {*map(type, polygon)} <= {int, float} or not (
        -side <= min(polygon) and max(polygon) <= 2 * side and not any(map(math.isnan, polygon))
    ):
        raise UserError(
            f"the polygon {shorten(polygon)} must have numbers from {-side} to {2 * side} alone"
        )
