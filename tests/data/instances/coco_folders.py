"""Small folders in COCO's layout."""

import copy
import json

import numpy as np
from PIL import Image

SIZES = ((40, 60), (64, 32), (32, 32))  # height and width of the three images
CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "dog"}]


def annotation(number, image_id, category, box, **fields):
    """A rectangle of whole pixels, as a polygon."""
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    record = {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(side) for side in box],
        "area": float(width * height),
        "iscrowd": 0,
        "segmentation": [polygon],
    }
    return record | fields


def content():
    """Two objects, a crowd, an empty box and a box outside; the last image has no object."""
    height, width = SIZES[0]
    crowd = {"size": [height, width], "counts": [0, 10, height * width - 10]}
    return {
        "images": [
            {"id": 11 * i, "file_name": f"{i}.jpg", "height": height, "width": width}
            for i, (height, width) in enumerate(SIZES)
        ],
        "annotations": [
            annotation(0, 0, 7, (10, 5, 20, 30)),
            annotation(5, 11, 3, (0, 50, 16, 14)),
            annotation(6, 0, 3, (0, 0, 1, 10), iscrowd=1, segmentation=crowd),
            annotation(7, 0, 3, (5, 5, 0, 10)),
            annotation(8, 11, 3, (100, 5, 10, 10)),
        ],
        "categories": copy.deepcopy(CATEGORIES),
    }


def write_folder(root, change=None, splits=("train", "val")):
    """Writes the splits, after `change(content)` where it is given."""
    for split in splits:
        written = content()
        if change is not None:
            change(written)
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(written))
        for i, (height, width) in enumerate(SIZES):
            pixels = np.full((height, width, 3), 50 + 40 * i, np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.jpg", quality=95)
    return root
