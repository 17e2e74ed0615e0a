"""Pictures of what a detector finds in the evaluation split, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evonorm_jax.data.instances import InstancePipeline
from evonorm_jax.detection.coco_masks import decode_mask
from evonorm_jax.detection.drawing import Drawn, draw_objects, sheet
from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.run_files import replacing

#: Detections below are not drawn: a detector gives every image as many as it may.
MIN_SCORE = 0.5


def write_pictures(path: Path, pipeline: InstancePipeline, rows: Mapping[str, np.ndarray]) -> None:
    """Writes one PNG file with a row for each image: the truth, and the detections on its right.

    Args:
      path: The file; its folder is made.
      pipeline: The data set.
      rows: As in `detection.coco_evaluation.coco_results`.
    """
    path.parent.mkdir(exist_ok=True)
    pairs = []
    for row, index in enumerate(rows["index"]):
        picture = pipeline.eval_picture(int(index))
        detections = {name: leaf[row] for name, leaf in rows.items()}
        objects = (
            true_objects(pipeline, picture, int(index)),
            found_objects(pipeline.class_names, picture, detections),
        )
        pairs.append([draw_objects(picture, drawn) for drawn in objects])
    with replacing(path) as temporary:
        sheet(pairs).save(temporary, format="PNG")


def true_objects(pipeline: InstancePipeline, picture: np.ndarray, index: int) -> list[Drawn]:
    """Returns the objects of an image of the evaluation split, crowds included, as it is drawn."""
    truth = pipeline.truth
    names = {record["id"]: record.get("name", "") for record in truth["categories"]}
    image = truth["images"][index]
    height, width = picture.shape[:2]
    scale = max(height, width) / max(image["height"], image["width"])
    drawn = []
    for record in truth["annotations"]:
        if record["image_id"] != image["id"]:
            continue
        x, y, box_width, box_height = (scale * float(side) for side in record["bbox"])
        mask = decode_mask(record["segmentation"], (image["height"], image["width"]))
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        text = _name(names[record["category_id"]], len(names))
        text += " crowd" if record.get("iscrowd") else ""
        drawn.append(Drawn((y, x, y + box_height, x + box_width), np.asarray(resized), text))
    return drawn


def found_objects(
    class_names: Sequence[str],
    picture: np.ndarray,
    detections: Mapping[str, np.ndarray],
    min_score: float = MIN_SCORE,
) -> list[Drawn]:
    """Returns the detections of one image with a score of at least `min_score`, best first."""
    drawn = []
    for slot in np.argsort(-detections["scores"], kind="stable"):
        score, box = float(detections["scores"][slot]), detections["boxes"][slot]
        if score < max(min_score, 0.0):  # -1 stands for nothing
            break
        name = class_names[int(detections["classes"][slot])]
        mask = paste_mask(detections["masks"][slot], box, picture.shape[:2])
        text = f"{_name(name, len(class_names) - 1)} {score:.2f}".strip()
        drawn.append(Drawn(box.tolist(), mask, text))
    return drawn


def _name(name: str, number: int) -> str:
    """Returns the name of a class, or "" where there is one class alone."""
    return name if number > 1 else ""
