"""Average precision of boxes and masks, on the host: COCO's own measure.

`accumulate_detections` keeps the precision at every recall, of which `evaluate_detections` gives
the means. The library faster-coco-eval does the matching and counting. It agrees with pycocotools,
the reference, to six digits and is 20 times faster on images with hundreds of objects. All numbers
are fractions. A number that COCO leaves undefined is left out, such as the precision on large
objects where there are none.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evonorm_jax.detection.coco_masks import encode_mask, import_faster_coco_eval
from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.errors import UserError

#: One object as COCO's JSON has it: an annotation, or a result.
Record = dict[str, Any]

#: COCO's areas in square pixels, in the order of its library: all, below 32^2, to 96^2, above.
_AREAS = ("", "_small", "_medium", "_large")

#: Name -> index among COCO's ten thresholds 0.5, 0.55, ..., 0.95.
THRESHOLDS = {"50": 0, "75": 5}


@dataclasses.dataclass(frozen=True)
class Accumulated:
    """Precision and recall of the boxes or the masks of a data set, as COCO's library gives them.

    The axes are the ten thresholds of the overlap (IoU) 0.5, 0.55, ..., 0.95; the recalls 0, 0.01,
    ..., 1; the categories; COCO's areas; and the numbers of detections that count.

    Attributes:
      kind: "box" or "mask".
      category_ids: Category id of each of the K categories.
      max_dets: The M numbers of detections of one image and one category that count, ascending.
      precision: `[10, 101, K, 4, M]`, the highest at that recall or any larger one; -1 where it is
        undefined.
      recall: `[10, K, 4, M]`, the highest that is reached; -1 where it is undefined.
    """

    kind: str
    category_ids: Sequence[int]
    max_dets: Sequence[int]
    precision: np.ndarray
    recall: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Returns AP and AR by the names of `evaluate_detections`, those that are defined."""
        parts = {
            f"{self.kind}_ap{area}": self.precision[..., i, -1] for i, area in enumerate(_AREAS)
        }
        for name, index in THRESHOLDS.items():
            parts[f"{self.kind}_ap{name}"] = self.precision[index, ..., 0, -1]
        for index, count in enumerate(self.max_dets):
            parts[f"{self.kind}_ar{count}"] = self.recall[..., 0, index]
        means = {name: values[values > -1] for name, values in parts.items()}
        return {name: float(values.mean()) for name, values in means.items() if values.size}


def evaluate_detections(
    truth: Mapping[str, Any], rows: Mapping[str, np.ndarray], **fields: Any
) -> dict[str, float]:
    """Computes average precision (AP) and recall (AR) of boxes and masks of a whole data set.

    Args:
      truth: As in `accumulate_detections`.
      rows: Likewise.
      **fields: Its further arguments.

    Returns:
      A dictionary of metrics with the names `box_ap`, `box_ap50`, `box_ap75`, `box_ap_small`,
      `box_ap_medium`, `box_ap_large`, `box_ar1`, `box_ar10`, `box_ar100`, and the same with `mask_`
      where `rows` has masks.

    Raises:
      UserError: As `accumulate_detections` does.
    """
    metrics: dict[str, float] = {}
    for accumulated in accumulate_detections(truth, rows, **fields):
        metrics |= accumulated.metrics()
    return metrics


def accumulate_detections(
    truth: Mapping[str, Any],
    rows: Mapping[str, np.ndarray],
    *,
    category_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
) -> list[Accumulated]:
    """Computes precision and recall of boxes and masks of a whole data set.

    Args:
      truth: COCO's JSON of the data set: `images`, `annotations` and `categories`, crowds included.
      rows: Detections with one row for each image of `truth`; see `coco_results`.
      category_ids: Category ids of the classes 1, 2, ...; None where a class is a category id.
      max_detections: Number of detections of an image that count, those of the highest scores; None
        for all.
      max_dets: COCO's parameter of that name: numbers of detections of one image and one category
        that count. AR is given for each, AP for the largest. Take more than 100 where images have
        more objects.

    Returns:
      Those of the boxes and, where `rows` has masks, those of the masks.

    Raises:
      UserError: The `detection` extra is not installed, the truth has no objects, or `rows` does
        not have one row for each image of the truth.
    """
    _check_rows(truth, rows)
    results = coco_results(
        truth["images"], rows, category_ids=category_ids, max_detections=max_detections
    )
    kinds = ("bbox", "segm") if "masks" in rows else ("bbox",)
    return [_accumulate(truth, results, kind, max_dets) for kind in kinds]


def coco_results(
    images: Sequence[Mapping[str, Any]],
    rows: Mapping[str, np.ndarray],
    *,
    category_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
) -> list[Record]:
    """Converts detections to COCO's format for results, which `json.dumps` takes.

    Args:
      images: The `images` of COCO's JSON.
      rows: Arrays by name, with one row for each of n images. `index` `[n]` is the place of the
        image in `images`. `boxes` `[n, D, 4]` as `[y1, x1, y2, x2]`, `scores` `[n, D]` with -1 for
        none, `classes` `[n, D]` and, optionally, `masks` `[n, D, S, S]` are the fields of
        `Detections`. `scale` `[n]` is the size of the image that the boxes refer to over the size
        of the original, by default 1. `mask` `[n]` is 0 for a row that only fills a batch.
      category_ids: Category ids of the classes 1, 2, ...; None where a class is a category id.
      max_detections: Number of detections of an image to keep, those of the highest scores; None
        for all.

    Returns:
      Records of `image_id`, `category_id`, `score`, `bbox` (x, y, width, height in pixels of
      the original) and, where there are masks, `segmentation` (compressed run lengths).

    Raises:
      UserError: There are masks and the `detection` extra is not installed.
    """
    results: list[Record] = []
    for row in np.flatnonzero(_is_image(rows)):
        image = images[int(rows["index"][row])]
        scores = rows["scores"][row]
        order = np.argsort(-scores, kind="stable")[:max_detections]
        for slot in order[scores[order] >= 0]:
            category = int(rows["classes"][row, slot])
            box = rows["boxes"][row, slot].astype(np.float64)
            if "scale" in rows:
                box = box / float(rows["scale"][row])
            y1, x1, y2, x2 = box.tolist()
            record: Record = {
                "image_id": image["id"],
                "category_id": category if category_ids is None else category_ids[category - 1],
                "score": float(scores[slot]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            if "masks" in rows:
                size = (image["height"], image["width"])
                record["segmentation"] = encode_mask(
                    paste_mask(rows["masks"][row, slot], box, size)
                )
            results.append(record)
    return results


def average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Record],
    *,
    kind: str,
    max_dets: Sequence[int] = (1, 10, 100),
) -> dict[str, float]:
    """Computes AP and AR of results in COCO's format; see `evaluate_detections`.

    Args:
      truth: COCO's JSON of the data set. Every image of it counts, whether anything was found or
        not.
      results: Records of the detections, as `coco_results` returns them.
      kind: "bbox" for the boxes or "segm" for the masks.
      max_dets: Numbers of detections of one image and one category that count, see
        `evaluate_detections`.

    Raises:
      UserError: The `detection` extra is not installed, or the truth has no objects.
    """
    return _accumulate(truth, results, kind, max_dets).metrics()


def _accumulate(
    truth: Mapping[str, Any], results: Sequence[Record], kind: str, max_dets: Sequence[int]
) -> Accumulated:
    library = import_faster_coco_eval()
    check_max_dets(max_dets)
    # Copies, as the library writes into the records. It marks what is matched by the id of the
    # annotation and takes 0 for "not matched", so the ids are given anew from 1.
    annotations = [
        {"iscrowd": 0, **record, "id": number}
        for number, record in enumerate(truth["annotations"], start=1)
    ]
    if not any(not record["iscrowd"] for record in annotations):
        raise UserError(
            "average precision is not defined: the annotations hold no object that is no crowd."
        )
    expected = library.COCO({**truth, "annotations": annotations})
    # Without its box a mask is sorted into COCO's areas by its own area.
    ignored = "segmentation" if kind == "bbox" else "bbox"
    found = expected.loadRes(
        [{key: value for key, value in record.items() if key != ignored} for record in results]
    )
    evaluation = library.COCOeval_faster(expected, found, kind)
    evaluation.params.maxDets = sorted(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    return Accumulated(
        {"bbox": "box", "segm": "mask"}[kind],
        [int(category) for category in evaluation.params.catIds],
        evaluation.params.maxDets,
        *(np.asarray(evaluation.eval[key]) for key in ("precision", "recall")),
    )


def _is_image(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns whether each row is an image, `[n]` bool; False for rows that only fill a batch."""
    return np.asarray(rows["mask"]) > 0 if "mask" in rows else np.ones(len(rows["index"]), bool)


def _check_rows(truth: Mapping[str, Any], rows: Mapping[str, np.ndarray]) -> None:
    """Raises `UserError` where an image is missing or counts twice: the result would be wrong."""
    counts = collections.Counter(np.asarray(rows["index"])[_is_image(rows)].tolist())
    number = len(truth["images"])
    wrong = [index for index in range(number) if counts[index] != 1]
    wrong += [index for index in counts if not 0 <= index < number]
    if wrong:
        raise UserError(
            f"detections must have one row for each of the {number} images of the truth: row "
            f"{wrong[0]} is there {counts[wrong[0]]} times ({len(wrong)} rows are wrong)."
        )


def check_max_dets(max_dets: Sequence[int], name: str = "max_dets") -> None:
    """Refuses numbers of detections that mean nothing.

    Args:
      max_dets: Numbers of detections that count, see `evaluate_detections`.
      name: Name of the argument in the message.

    Raises:
      UserError: There is no number, or one is below 1.
    """
    if not max_dets or min(max_dets) < 1:
        raise UserError(f"{name}={tuple(max_dets)}: expected numbers of at least 1.")
