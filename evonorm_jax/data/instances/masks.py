"""Sets whose objects are known as masks: what trains on them, and their truth as COCO's JSON."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from evonorm_jax.data.instances.examples import Instance
from evonorm_jax.detection.coco_masks import encode_mask

#: Class and mask `[H, W]` bool, with at least one pixel, of every object of an image.
Objects = Sequence[tuple[int, np.ndarray]]


def instances_of(objects: Objects) -> list[Instance]:
    """Describes the objects of one image."""
    return [
        Instance(bounding_box(mask), label, float(mask.sum()), functools.partial(np.asarray, mask))
        for label, mask in objects
    ]


def coco_truth(images: Sequence[Objects], class_names: Sequence[str]) -> dict[str, Any]:
    """Makes COCO's JSON of a split; a category id is a class.

    Args:
      images: The objects of every image, all of one size; at least one image must have some.
      class_names: Names by class, the background's included.

    Raises:
      UserError: The `detection` extra is not installed.
    """
    height, width = next(mask.shape for objects in images for _, mask in objects)
    annotations: list[dict[str, Any]] = []
    for image_id, objects in enumerate(images, start=1):
        for label, mask in objects:
            y1, x1, y2, x2 = bounding_box(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encode_mask(mask),
                }
            )
    return {
        "images": [
            {"id": image_id, "height": height, "width": width}
            for image_id in range(1, len(images) + 1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": label, "name": name} for label, name in enumerate(class_names) if label
        ],
    }


def bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns the box `(y1, x1, y2, x2)` of a mask `[H, W]` bool that has a pixel.

    >>> bounding_box(np.eye(4, 6, k=1, dtype=bool))
    (0.0, 1.0, 4.0, 5.0)
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)
