"""Pasting of masks of regions back into their images, on the host."""

from __future__ import annotations

import numpy as np


def paste_mask(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Finds the pixels of an image that a detected mask covers.

    The mask is interpolated between the centres of its cells. Beyond the outermost centres it falls
    to 0 within one cell, so that a mask of ones fills its box exactly. A pixel is covered where the
    value at its centre exceeds one half.

    Args:
      mask: Mask `[S, S]` over the box, 0 to 255 in uint8 or 0 to 1 in floating point.
      box: Box `[y1, x1, y2, x2]` in pixels of the image, `[4]`.
      size: Height and width of the image in pixels.

    Returns:
      The covered pixels, `[H, W]` bool.

    >>> paste_mask(np.full((2, 2), 255, np.uint8), np.array([1, 0, 3, 2]), (4, 3)).astype(int)
    array([[0, 0, 0],
           [1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    values = mask / np.float32(255) if mask.dtype == np.uint8 else mask.astype(np.float32)
    result = np.zeros(size, bool)
    (rows, row_weights), (columns, column_weights) = (
        _interpolation(box[axis], box[axis + 2], len(mask), size[axis]) for axis in (0, 1)
    )
    result[rows, columns] = row_weights @ values @ column_weights.T > 0.5
    return result


def _interpolation(start: float, end: float, cells: int, size: int) -> tuple[slice, np.ndarray]:
    """Returns the pixels whose centres lie in an interval, and their weights `[pixels, cells]`."""
    first = int(np.clip(np.ceil(start - 0.5), 0, size))
    stop = int(np.clip(np.ceil(end - 0.5), first, size))
    if end <= start:
        return slice(0, 0), np.zeros((0, cells), np.float32)
    position = (np.arange(first, stop) + 0.5 - start) / (end - start) * cells - 0.5
    weights = np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0)
    return slice(first, stop), weights.astype(np.float32)
