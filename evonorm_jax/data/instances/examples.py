"""One image with its objects as arrays of fixed shapes, on the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from PIL import Image

from evonorm_jax.data.pipeline import Batch

logger = logging.getLogger(__name__)


class Instance(NamedTuple):
    """An object of an image.

    Attributes:
      box: `(y1, x1, y2, x2)` in pixels of the image, inside it and not empty.
      label: Its class, from 1 on.
      area: Pixels of its mask; where there are too many objects, the largest are taken.
      mask: Makes the mask `[H, W]` bool of the whole image.
    """

    box: tuple[float, float, float, float]
    label: int
    area: float
    mask: Callable[[], np.ndarray]


def make_example(
    pixels: np.ndarray, instances: Sequence[Instance], config: ml_collections.ConfigDict
) -> Batch:
    """Fits an image into the canvas, its objects with it.

    Args:
      pixels: `[h, w, 3]` uint8.
      instances: Its objects; of more than M the largest M are kept.
      config: `config.dataset`, for the sizes S of the canvas, M and P.

    Returns:
      What `fit_image` returns, `boxes` `[M, 4]` float32 in pixels of the canvas, `classes` `[M]`
      int32, 0 for a place without object, and `masks` `[M, P, P / 8]` uint8, each the mask within
      its box, eight pixels to a byte.
    """
    example = fit_image(pixels, config.image_size)
    limit, side = config.max_instances, config.mask_size
    boxes = np.zeros((limit, 4), np.float32)
    classes = np.zeros(limit, np.int32)
    masks = np.zeros((limit, side, side // 8), np.uint8)
    largest = sorted(instances, key=lambda instance: -instance.area)[:limit]
    for place, instance in enumerate(largest):
        boxes[place] = np.multiply(instance.box, example["scale"])
        classes[place] = instance.label
        masks[place] = np.packbits(crop_to_box(instance.mask(), instance.box, side), axis=-1)
    return example | {"boxes": boxes, "classes": classes, "masks": masks}


def fit_image(pixels: np.ndarray, size: int) -> Batch:
    """Scales an image such that its longer side becomes that of the canvas, to whole pixels.

    Returns:
      `image` `[size, size, 3]` uint8, zeros at the bottom or on the right; `valid_size` `[2]`
      int32, height and width of the picture in it; `scale` float32, pixels of the canvas to a pixel
      of the image.
    """
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    # Rounded down, and cut to that, so that one scale is exact for both sides.
    valid = [max(1, int(height * scale + 1e-6)), max(1, int(width * scale + 1e-6))]
    if scale != 1:
        box = (0, 0, min(width, valid[1] / scale), min(height, valid[0] / scale))
        resized = Image.fromarray(pixels).resize(
            (valid[1], valid[0]), Image.Resampling.BILINEAR, box
        )
        pixels = np.asarray(resized)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[: valid[0], : valid[1]] = pixels
    return {
        "image": canvas,
        "valid_size": np.array(valid, np.int32),
        "scale": np.array(scale, np.float32),
    }


def crop_to_box(mask: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Resizes the part of a mask `[H, W]` bool within a box to `[size, size]` bool."""
    y1, x1, y2, x2 = box
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    cropped = image.resize((size, size), Image.Resampling.BILINEAR, (x1, y1, x2, y2))
    return np.asarray(cropped) > 127


def report_surplus(counts: Iterable[int], limit: int, name: str) -> None:
    """Says once how many images of a training split have more objects than training takes."""
    surplus = [count - limit for count in counts if count > limit]
    if surplus:
        logger.warning(
            "'%s': %d images have more than %d objects; their smallest %d are not trained on. "
            "config.dataset.max_instances=%d takes all.",
            name,
            len(surplus),
            limit,
            sum(surplus),
            limit + max(surplus),
        )
