"""AP against pycocotools and in the cases where others went wrong."""

import contextlib
import copy
import importlib
import io
import sys

import numpy as np
import pytest

from evonorm_jax.detection.coco_evaluation import (
    average_precision,
    coco_results,
    evaluate_detections,
)
from evonorm_jax.detection.coco_masks import encode_mask
from evonorm_jax.errors import UserError

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

SIZE = (224, 256)
CATEGORIES = (3, 7)


def ellipse(box):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    y1, x1, y2, x2 = box
    return ((2 * rows - y1 - y2) / (y2 - y1)) ** 2 + ((2 * columns - x1 - x2) / (x2 - x1)) ** 2 <= 1


def annotation(image_id, category, box, *, iscrowd=0, number=1):
    mask = ellipse(box)
    y1, x1, y2, x2 = (float(side) for side in box)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(mask.sum()),
        "iscrowd": iscrowd,
        "segmentation": encode_mask(mask),
    }


def random_box(rng, low=8, high=210):
    height, width = np.exp(rng.uniform(np.log(low), np.log(high), 2))
    y, x = rng.uniform(0, SIZE[0] - height), rng.uniform(0, SIZE[1] - width)
    return np.array([y, x, y + height, x + width])


@pytest.fixture(scope="module")
def truth():
    """Twelve images, one of them empty, objects of all sizes and two crowds."""
    rng = np.random.default_rng(0)
    images = [{"id": 100 - i, "height": SIZE[0], "width": SIZE[1]} for i in range(12)]
    annotations = []
    for image in images[:-1]:
        for _ in range(rng.integers(2, 8)):
            crowd = len(annotations) in (5, 17)
            annotations.append(
                annotation(
                    image["id"],
                    int(rng.choice(CATEGORIES)),
                    random_box(rng),
                    iscrowd=int(crowd),
                    number=1 + len(annotations),
                )
            )
    categories = [{"id": category, "name": str(category)} for category in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def rows_of(truth, detect, slots=12):
    """One row each image, of `detect(image) -> [(score, class, box, mask)]`."""
    number = len(truth["images"])
    rows = {
        "index": np.arange(number),
        "boxes": np.zeros((number, slots, 4), np.float32),
        "scores": np.full((number, slots), -1, np.float32),
        "classes": np.zeros((number, slots), np.int32),
        "masks": np.zeros((number, slots, 28, 28), np.uint8),
    }
    for row, image in enumerate(truth["images"]):
        for slot, (score, category, box, mask) in enumerate(detect(image)):
            rows["scores"][row, slot], rows["classes"][row, slot] = score, category
            rows["boxes"][row, slot], rows["masks"][row, slot] = box, mask
    return rows


def small_ellipse():
    """The 28 x 28 mask of an ellipse over its box, as a network would give it."""
    rows, columns = (np.mgrid[:28, :28] + 0.5) / 14 - 1
    return (255 * np.clip(14 * (1 - np.hypot(rows, columns)) + 0.5, 0, 1)).astype(np.uint8)


ELLIPSE = small_ellipse()


@pytest.fixture(scope="module")
def noisy(truth):
    """Moved boxes, some of the wrong class, some found twice, some not at all."""
    rng = np.random.default_rng(1)

    def detect(image):
        found = []
        for record in truth["annotations"]:
            if record["image_id"] != image["id"]:
                continue
            x, y, width, height = record["bbox"]
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                noise = rng.normal(0, 0.08, 4) * [height, width, height, width]
                box = np.array([y, x, y + height, x + width]) + noise
                category = 1 + CATEGORIES.index(record["category_id"])
                if rng.uniform() < 0.1:
                    category = 3 - category
                found.append((rng.uniform(), category, box, ELLIPSE))
        for _ in range(rng.integers(0, 3)):
            box = random_box(rng)
            found.append((rng.uniform(0, 0.6), 1, box, ELLIPSE))
        return sorted(found, key=lambda detection: -detection[0])

    return rows_of(truth, detect, slots=20)


def pycocotools_statistics(truth, results, kind, max_dets=(1, 10, 100)):
    """The twelve numbers of the reference, by our names; -1 where they are undefined."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs the `test` extra")
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    drop = "segmentation" if kind == "bbox" else "bbox"
    results = [{k: v for k, v in copy.deepcopy(r).items() if k != drop} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = coco.COCO()
        expected.dataset = copy.deepcopy(truth)
        expected.createIndex()
        evaluation = cocoeval.COCOeval(expected, expected.loadRes(results), kind)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    prefix = {"bbox": "box", "segm": "mask"}[kind]
    names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    names += [f"ar{count}" for count in max_dets]
    return {f"{prefix}_{name}": value for name, value in zip(names, evaluation.stats, strict=False)}


def test_noisy_detections_equal_pycocotools(truth, noisy):
    metrics = evaluate_detections(truth, noisy, category_ids=CATEGORIES)
    results = coco_results(truth["images"], noisy, category_ids=CATEGORIES)
    expected = pycocotools_statistics(truth, results, "bbox")
    expected |= pycocotools_statistics(truth, results, "segm")
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert 0.2 < metrics["box_ap"] < 0.9
    assert 0.2 < metrics["mask_ap"] < 0.9
    assert metrics["mask_ap"] != metrics["box_ap"]
    assert len({round(metrics[f"mask_ap_{size}"], 3) for size in ("small", "medium", "large")}) == 3


def perfect(truth, slots=12):
    def detect(image):
        return [
            (
                0.9,
                1 + CATEGORIES.index(record["category_id"]),
                np.array(record["bbox"])[[1, 0, 1, 0]] + np.array([0, 0, *record["bbox"][:1:-1]]),
                ELLIPSE,
            )
            for record in truth["annotations"]
            if record["image_id"] == image["id"] and not record["iscrowd"]
        ]

    return rows_of(truth, detect, slots)


def test_perfect_boxes(truth):
    rows = perfect(truth)
    del rows["masks"]
    metrics = evaluate_detections(truth, rows, category_ids=CATEGORIES)
    assert metrics["box_ap"] == metrics["box_ap75"] == metrics["box_ar100"] == 1
    assert not any(name.startswith("mask") for name in metrics)


def test_scale_of_the_image_that_was_fed(truth):
    rows = perfect(truth)
    del rows["masks"]
    scale = np.linspace(0.5, 2, len(truth["images"])).astype(np.float32)
    rows["boxes"] *= scale[:, None, None]
    metrics = evaluate_detections(truth, rows | {"scale": scale}, category_ids=CATEGORIES)
    assert metrics["box_ap"] == 1


def test_an_annotation_of_id_0_is_found_too(truth):
    from_zero = copy.deepcopy(truth)
    for record in from_zero["annotations"]:
        record["id"] -= 1
    before = copy.deepcopy(from_zero)
    rows = perfect(truth)
    del rows["masks"]
    assert evaluate_detections(from_zero, rows, category_ids=CATEGORIES)["box_ap"] == 1
    assert from_zero == before  # nothing is written into the user's truth


def test_a_detection_in_a_crowd_is_ignored():
    images = [{"id": 1, "height": SIZE[0], "width": SIZE[1]}]
    crowd = annotation(1, 3, (50, 50, 150, 190), iscrowd=1, number=2)
    records = [annotation(1, 3, (5, 5, 30, 40)), crowd]
    truth = {"images": images, "annotations": records, "categories": [{"id": 3, "name": "a"}]}
    rows = rows_of(
        truth,
        lambda image: [
            (score, 1, box, ELLIPSE)
            for score, box in ((0.9, (60, 60, 90, 100)), (0.5, (5, 5, 30, 40)))
        ],
    )
    del rows["masks"]
    assert evaluate_detections(truth, rows, category_ids=[3])["box_ap"] == 1
    without = truth | {"annotations": records[:1]}
    assert evaluate_detections(without, rows, category_ids=[3])["box_ap"] == pytest.approx(0.5)


def test_an_image_without_detections_counts(truth):
    rows = perfect(truth)
    del rows["masks"]
    rows["scores"][0] = -1
    missed = [r for r in truth["annotations"] if r["image_id"] == truth["images"][0]["id"]]
    metrics = evaluate_detections(truth, rows, category_ids=CATEGORIES)
    assert metrics["box_ap"] < 1
    total = sum(not record["iscrowd"] for record in truth["annotations"])
    assert metrics["box_ar100"] == pytest.approx(1 - len(missed) / total, abs=0.05)


def test_no_detection_at_all_is_zero(truth):
    metrics = evaluate_detections(truth, rows_of(truth, lambda image: []), category_ids=CATEGORIES)
    assert set(metrics.values()) == {0.0}


def test_more_objects_than_max_dets():
    # 120 objects side by side; COCO's own limit is 100.
    images = [{"id": 1, "height": SIZE[0], "width": SIZE[1]}]
    boxes = [(y, x, y + 8, x + 8) for y in range(0, 120, 10) for x in range(0, 100, 10)]
    records = [annotation(1, 3, box, number=i + 1) for i, box in enumerate(boxes)]
    truth = {"images": images, "annotations": records, "categories": [{"id": 3, "name": "a"}]}
    detections = [(1 - i / 200, 1, box, ELLIPSE) for i, box in enumerate(boxes)]
    rows = rows_of(truth, lambda image: detections, slots=128)
    del rows["masks"]

    def evaluate(**fields):
        return evaluate_detections(truth, rows, category_ids=[3], **fields)

    assert evaluate()["box_ar100"] == pytest.approx(100 / 120)
    assert evaluate()["box_ap"] == pytest.approx(84 / 101)  # recalls 0 to 0.83 of 101
    more = evaluate(max_dets=(1, 400))
    assert more["box_ap"] == more["box_ar400"] == 1
    few = evaluate(max_dets=(1, 400), max_detections=30)
    assert few["box_ar400"] == pytest.approx(30 / 120)
    results = coco_results(images, rows, category_ids=[3])
    expected = pycocotools_statistics(truth, results, "bbox")
    assert evaluate()["box_ap"] == pytest.approx(expected["box_ap"], abs=1e-6)


def test_undefined_numbers_are_left_out():
    images = [{"id": 1, "height": SIZE[0], "width": SIZE[1]}]
    records = [annotation(1, 3, (5, 5, 20, 20))]
    truth = {"images": images, "annotations": records, "categories": [{"id": 3, "name": "a"}]}
    metrics = average_precision(truth, [], kind="bbox")
    assert "box_ap_small" in metrics
    assert "box_ap_large" not in metrics
    assert (
        pycocotools_statistics(
            truth,
            coco_results(images, rows_of(truth, lambda image: [(0.9, 3, (0, 0, 9, 9), 0)])),
            "bbox",
        )["box_ap_large"]
        == -1
    )


def test_rows_that_fill_a_batch_do_not_count(truth, noisy):
    expected = evaluate_detections(truth, noisy, category_ids=CATEGORIES)
    filled = {name: np.concatenate([values, values[:3]]) for name, values in noisy.items()}
    filled["mask"] = np.array([1.0] * len(truth["images"]) + [0.0] * 3)
    order = np.random.default_rng(0).permutation(len(filled["mask"]))
    filled = {name: values[order] for name, values in filled.items()}
    assert evaluate_detections(truth, filled, category_ids=CATEGORIES) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["index"].__setitem__(0, 1), r"12 images .* row 0 is there 0 times \(2 "),
        (lambda rows: rows["index"].__setitem__(3, 12), "row 3 is there 0 times"),
    ],
)
def test_rows_of_other_images(truth, change, message):
    rows = rows_of(truth, lambda image: [])
    change(rows)
    with pytest.raises(UserError, match=message):
        evaluate_detections(truth, rows, category_ids=CATEGORIES)


def test_refusals(truth):
    with pytest.raises(UserError, match=r"max_dets=\(\): expected"):
        average_precision(truth, [], kind="bbox", max_dets=())
    crowds = [record for record in truth["annotations"] if record["iscrowd"]]
    with pytest.raises(UserError, match="no object that is no crowd"):
        average_precision(truth | {"annotations": crowds}, [], kind="bbox")


def test_without_the_extra(truth, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[detection\]"'):
        evaluate_detections(truth, rows_of(truth, lambda image: []))


def test_results_by_hand():
    images = [{"id": 42, "height": 8, "width": 10}]
    rows = {
        "index": np.array([0]),
        "boxes": np.array([[[2, 4, 6, 8], [0, 0, 2, 2], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.25, 0.5, -1]], np.float32),
        "classes": np.array([[2, 1, 0]]),
        "scale": np.array([2.0]),
    }
    results = coco_results(images, rows, category_ids=CATEGORIES)
    assert results == [
        {"image_id": 42, "category_id": 3, "score": 0.5, "bbox": [0, 0, 1, 1]},
        {"image_id": 42, "category_id": 7, "score": 0.25, "bbox": [2, 1, 2, 2]},
    ]
    (one,) = coco_results(images, rows, max_detections=1)
    assert one["category_id"] == 1
    (masked,) = coco_results(
        images, rows | {"masks": np.full((1, 3, 4, 4), 255, np.uint8)}, max_detections=1
    )
    mask_module = importlib.import_module("faster_coco_eval").mask
    decoded = mask_module.decode(masked["segmentation"])
    assert np.argwhere(decoded).tolist() == [[0, 0]]
    assert masked["segmentation"]["size"] == [8, 10]
