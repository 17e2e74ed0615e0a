"""Anchors: the boxes that the region proposal network corrects, constants of the image size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

#: Width over height, in the order of the authors' code (models/official/detection).
ASPECT_RATIOS = (1.0, 2.0, 0.5)


def anchors(
    image_size: tuple[int, int],
    levels: Iterable[int],
    scale: float,
    aspect_ratios: Sequence[float] = ASPECT_RATIOS,
) -> dict[int, np.ndarray]:
    """Computes the anchors of every level, pixel by pixel, one for each of A aspect ratios.

    The anchors of a pixel share its centre, `(i + 0.5) * stride`, and their area,
    `(scale * stride)^2`, at every stride 2^level. None is clipped at the border or left out there.

    >>> anchors((64, 64), levels=[5], scale=1, aspect_ratios=[1, 4])[5].tolist()[:2]
    [[0.0, 0.0, 32.0, 32.0], [8.0, -16.0, 24.0, 48.0]]

    Args:
      image_size: Height and width of the image in pixels, multiples of the strides.
      levels: Levels of the feature maps.
      scale: Side of a square anchor, in pixels of its feature map.
      aspect_ratios: Width over height of the A anchors of a pixel.

    Returns:
      A dictionary from each level to boxes `[H * W * A, 4]` float32, `[y1, x1, y2, x2]` in pixels
      of the image. H and W are the height and width of the feature map of that level.
    """
    result = {}
    for level in levels:
        stride = 2**level
        rows, columns = (np.arange(size // stride) * stride + stride / 2 for size in image_size)
        roots = np.sqrt(np.asarray(aspect_ratios, np.float64))
        half = scale * stride / 2 * np.stack([1 / roots, roots], axis=-1)
        centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[:, :, None]
        boxes = np.concatenate([centres - half, centres + half], axis=-1)
        result[level] = boxes.reshape(-1, 4).astype(np.float32)
    return result
