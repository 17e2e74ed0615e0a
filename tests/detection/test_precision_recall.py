"""The table of precision over recall, against what is counted by hand and against AP."""

import csv

import numpy as np
import pytest

from evonorm_jax.detection.coco_evaluation import Accumulated, accumulate_detections
from evonorm_jax.detection.precision_recall import write_precision_recall

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")


def read(path):
    """By kind and category id, a dictionary of columns."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    tables = {}
    for row in rows:
        tables.setdefault((row["kind"], row["category_id"], row["name"]), []).append(row)
    return {
        key: {
            name: np.array([float(line[name]) for line in lines])
            for name in ("recall", "precision", "precision50", "precision75")
        }
        for key, lines in tables.items()
    }


def record(number, category, box):
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def test_a_case_by_hand(tmp_path):
    """Two cells: one found well, one with an overlap of 0.62, a mistake between them by score."""
    truth = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [
            record(1, 3, [10, 10, 40, 40]),
            record(2, 3, [50, 100, 100, 20]),
            record(3, 7, [150, 10, 30, 30]),  # never found
        ],
        "categories": [
            {"id": i, "name": name} for i, name in ((3, "cell, old"), (7, ""), (9, "z"))
        ],
    }
    rows = {
        "index": np.array([0]),
        "boxes": np.array(
            [[[10, 10, 50, 50], [150, 150, 190, 190], [100, 50, 120, 112]]], np.float32
        ),
        "scores": np.array([[0.9, 0.8, 0.7]], np.float32),
        "classes": np.array([[1, 1, 1]]),
    }
    accumulated = accumulate_detections(truth, rows, category_ids=(3, 7, 9))
    names = {record["id"]: record["name"] for record in truth["categories"]}
    write_precision_recall(tmp_path / "table.csv", accumulated, names)
    tables = read(tmp_path / "table.csv")
    # No object is of category 9, whose precision is undefined.
    assert list(tables) == [("box", "", ""), ("box", "3", "cell, old"), ("box", "7", "")]
    cell = tables["box", "3", "cell, old"]
    np.testing.assert_allclose(cell["recall"], np.arange(101) / 100, atol=1e-9)
    # Half of the cells are found before the mistake; with the other half 2 of 3 are right. The
    # overlap of 0.62 counts at three of the ten thresholds, but not at 0.75.
    np.testing.assert_allclose(cell["precision50"], [1] * 51 + [2 / 3] * 50, atol=1e-6)
    np.testing.assert_allclose(cell["precision75"], [1] * 51 + [0] * 50, atol=1e-6)
    np.testing.assert_allclose(cell["precision"], [1] * 51 + [0.2] * 50, atol=1e-6)
    for name in ("precision50", "precision75", "precision"):
        np.testing.assert_array_equal(tables["box", "7", ""][name], 0)
        np.testing.assert_allclose(tables["box", "", ""][name], cell[name] / 2, atol=1e-6)
    metrics = accumulated[0].metrics()
    for name in ("50", "75", ""):
        column = tables["box", "", ""][f"precision{name}"]
        assert metrics[f"box_ap{name}"] == pytest.approx(column.mean(), abs=1e-6)
    assert metrics["box_ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101 / 2)


def test_many_categories_have_their_mean_alone(tmp_path):
    rng = np.random.default_rng(0)
    precision = rng.uniform(size=(10, 101, 22, 4, 1))
    precision[:, :, 5] = -1  # no objects: it counts neither here nor there
    many = Accumulated("mask", range(22), (100,), precision, np.zeros((10, 22, 4, 1)))
    write_precision_recall(tmp_path / "many.csv", [many], {})
    ((key, table),) = read(tmp_path / "many.csv").items()
    assert key == ("mask", "", "")
    expected = np.delete(precision[..., 0, 0], 5, axis=2).mean((0, 2))
    np.testing.assert_allclose(table["precision"], expected, atol=1e-6)
    few = Accumulated("mask", range(21), (100,), precision[:, :, :21], np.zeros((10, 21, 4, 1)))
    names = {number: f"class {number}" for number in range(21)}
    write_precision_recall(tmp_path / "few.csv", [few], names)
    assert len(read(tmp_path / "few.csv")) == 1 + 20
