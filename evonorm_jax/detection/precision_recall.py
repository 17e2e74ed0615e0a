"""The precision of a detector over its recall, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from evonorm_jax.detection.coco_evaluation import THRESHOLDS, Accumulated
from evonorm_jax.run_files import write_csv

#: With more categories the table has their mean alone.
MOST_CATEGORIES = 20

HEADER = (
    *("kind", "category_id", "name", "recall", "precision"),
    *(f"precision{name}" for name in THRESHOLDS),
)


def write_precision_recall(
    path: Path, accumulated: Sequence[Accumulated], names: Mapping[int, str]
) -> None:
    """Writes the precision at 101 recalls; the mean of a column over the recalls is its AP.

    Rows are of "box" or "mask". Those without a category are of the mean over all categories;
    those of each category follow where there are at most 20. `precision50` and `precision75` are
    at overlaps (IoU) of 0.5 and 0.75, `precision` is the mean over 0.5, 0.55, ..., 0.95. A category
    without objects has no precision and is left out.

    Args:
      path: The file, which is replaced.
      accumulated: Those of boxes and masks, from `accumulate_detections`.
      names: Names of the categories by their ids.
    """
    rows = [row for part in accumulated for row in _rows(part, names)]
    write_csv(path, [HEADER, *rows])


def _rows(accumulated: Accumulated, names: Mapping[int, str]) -> Iterator[tuple[object, ...]]:
    """The rows of boxes, or of masks: of all objects, and of as many detections as may count."""
    precision = accumulated.precision[..., 0, -1]  # [thresholds, recalls, categories]
    found = np.flatnonzero(precision[0, 0] > -1)
    columns = np.stack([precision.mean(0), *(precision[i] for i in THRESHOLDS.values())], axis=-1)
    tables: list[tuple[object, str, np.ndarray]] = [("", "", columns[:, found].mean(1))]
    if len(found) <= MOST_CATEGORIES:
        for place in found.tolist():
            category = accumulated.category_ids[place]
            tables.append((category, names[category], columns[:, place]))
    for category_id, name, table in tables:
        for recall, values in zip(np.linspace(0, 1, len(table)), table, strict=True):
            numbers = (f"{value:.6f}" for value in values)
            yield (accumulated.kind, category_id, name, f"{recall:.2f}", *numbers)
