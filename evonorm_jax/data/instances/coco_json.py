"""COCO's own layout: `<path>/annotations/instances_<split>.json` beside `<path>/<split>/<image>`.

Everything is checked when the JSON is read, before an image is. What COCO's own tools skip, this
skips in training too, and says so once with a number: crowds, and boxes that are empty or outside
the image. They all stay in the truth that average precision is measured by.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from evonorm_jax.data.instances.examples import Instance, report_surplus
from evonorm_jax.data.pillow_images import (
    DECODING_ERRORS,
    MAX_PIXELS,
    decode_image,
    describe,
)
from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.detection.coco_masks import check_segmentation, decode_mask
from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import is_finite_number, shorten
from evonorm_jax.input_files import printable

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_MAX_GAP = 100  # classes for each category, where ids are classes; COCO has 91 for 80


@dataclasses.dataclass(frozen=True)
class CocoImage:
    """An image of a split.

    Attributes:
      path: Its file.
      size: Height and width, as the JSON says.
      instances: The objects to train on.
    """

    path: pathlib.Path
    size: tuple[int, int]
    instances: tuple[Instance, ...]


@dataclasses.dataclass(frozen=True)
class CocoSplit:
    """One split.

    Attributes:
      images: Its images, in the order of `truth["images"]`.
      truth: Its part of the JSON.
      skipped: How many annotations are not trained on, by the reason.
    """

    images: tuple[CocoImage, ...]
    truth: dict[str, Any]
    skipped: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """Both splits, `train` None where it was left unread, and their classes.

    Attributes:
      train: The training split.
      eval: The evaluation split.
      class_names: Names by class, the background's included.
      category_ids: Category ids of the classes 1, 2, ...
    """

    train: CocoSplit | None
    eval: CocoSplit
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]


def list_coco_folder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> CocoFolder:
    """Reads the JSON of both splits, or of the evaluation split alone; opens no image.

    Classes follow the sorted category ids; with `config.keep_category_ids` a class is a category
    id, and ids that do not occur are classes without a name.

    Raises:
      UserError: A file is missing or breaks a rule; the message names it and the id.
    """
    root = pathlib.Path(os.path.expanduser(config.path))
    names = [config.eval_split] if evaluation_only else [config.train_split, config.eval_split]
    if not config.path or not os.path.isdir(root):
        needed = (f"annotations/instances_{parse_split(name)[0]}.json" for name in names)
        raise UserError(
            f"There is no folder '{config.path}': config.dataset.path must name the folder that "
            f"holds {' and '.join(needed)} beside the folders of images."
        )
    files = [root / "annotations" / f"instances_{parse_split(name)[0]}.json" for name in names]
    contents = [_read_json(file) for file in files]
    categories = [
        _category_names(content, file) for content, file in zip(contents, files, strict=True)
    ]
    if categories[0] != categories[-1]:
        raise UserError(
            f"{files[0]} and {files[-1]} have different categories: {_differences(*categories)}."
        )
    category_ids = tuple(sorted(categories[0]))
    if config.keep_category_ids:
        largest, limit = max(category_ids), _MAX_GAP * len(category_ids)
        if largest > limit:
            raise UserError(
                f"{files[0]}: {len(category_ids)} categories have ids up to {largest}, and each id "
                f"would be a class (at most {limit} here): number them anew, or set "
                "config.dataset.keep_category_ids=False."
            )
        category_ids = tuple(range(1, largest + 1))
    class_names = ("background", *(categories[0].get(i, "") for i in category_ids))
    splits = [
        _read_split(root, name, content, file, category_ids)
        for name, content, file in zip(names, contents, files, strict=True)
    ]
    if not evaluation_only:
        _report_skipped(splits[0], config.train_split, files[0])
        counts = (len(image.instances) for image in splits[0].images)
        report_surplus(counts, config.max_instances, config.name)
    if not any(not record.get("iscrowd") for record in splits[-1].truth["annotations"]):
        raise UserError(
            f"{files[-1]}: the images of split '{names[-1]}' hold no object that is no crowd, so "
            "that average precision is not defined: take another evaluation split."
        )
    train = None if evaluation_only else splits[0]
    return CocoFolder(train, splits[-1], class_names, category_ids)


def read_pixels(image: CocoImage, *, upright: bool = True) -> np.ndarray:
    """Decodes the file of an image to `[H, W, 3]` uint8.

    Args:
      image: The image.
      upright: Whether it is turned as its EXIF orientation says.

    Raises:
      UserError: It cannot be decoded, or has another size than the JSON says.
    """
    name = printable(image.path)
    try:
        pixels = np.asarray(decode_image(image.path, 3, upright=upright))
    except UserError:
        raise
    except DECODING_ERRORS as error:
        raise UserError(
            f"The image '{name}' cannot be decoded ({describe(error)}): replace the file."
        ) from error
    if pixels.shape[:2] != image.size:
        hint = ""
        if pixels.shape[1::-1] == image.size:
            lies = "as it is stored" if upright else "turned as its EXIF says"
            hint = f" If its objects lie on the photograph {lies}: exif_orientation={not upright}."
        raise UserError(
            f"The image '{name}' has {pixels.shape[0]} x {pixels.shape[1]} pixels (height x "
            f"width), but its JSON says {image.size[0]} x {image.size[1]}.{hint}"
        )
    return pixels


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("*.json"))
        raise UserError(
            f"There is no file {file}; its folder has {', '.join(there) or 'no JSON file'}. A "
            "split NAME is read from annotations/instances_NAME.json: set "
            "config.dataset.train_split and eval_split."
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON file, or nested too deep ({error}).") from error
    for key in ("images", "annotations", "categories"):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise UserError(f"{file} has no list of {key}, as COCO's format has it.")
        if key != "annotations" and not records:
            raise UserError(f"{file} has no {key}: the list is empty.")
        _check_ids(records, key, file)
    return content


def _check_ids(records: Sequence[Record], kind: str, file: pathlib.Path) -> None:
    """Every record has an id of its own; 0 is as good as any other."""
    counts = collections.Counter(_field(record, "id", int, kind, file) for record in records)
    if repeated := [number for number, count in counts.items() if count > 1]:
        raise UserError(
            f"{file}: {len(repeated)} ids of {kind} occur more than once, the first is "
            f"{repeated[0]}. Number them anew."
        )


def _category_names(content: Mapping[str, Any], file: pathlib.Path) -> dict[int, str]:
    names = {}
    for record in content["categories"]:
        number = record["id"]
        if number < 0:
            raise UserError(f"{file}: category id {number} is negative.")
        names[number] = name = str(record.get("name", number))
        if name != name.encode("utf-8", "replace").decode():  # JSON can hold halves of characters
            raise UserError(f"{file}: category {number} has the name {name!r}, which is no text.")
    return names


def _differences(one: Mapping[int, str], other: Mapping[int, str]) -> str:
    differing = sorted(set(one.items()) ^ set(other.items()))
    shown = ", ".join(f"{number} ({name})" for number, name in differing[:5])
    return f"{shown} and {len(differing) - 5} more" if len(differing) > 5 else shown


def _read_split(
    root: pathlib.Path,
    split: str,
    content: Mapping[str, Any],
    file: pathlib.Path,
    category_ids: Sequence[int],
) -> CocoSplit:
    """Checks one split and brings its annotations to their images."""
    folder = root / parse_split(split)[0]
    sizes = {}
    for record in content["images"]:
        sides = [_field(record, key, int, "images", file) for key in ("height", "width")]
        if min(sides) < 1 or math.prod(sides) > MAX_PIXELS:
            raise UserError(
                f"{file}: image {record['id']} has the size {sides}: expected 1 to {MAX_PIXELS:,} "
                "pixels."
            )
        sizes[record["id"]] = (sides[0], sides[1])
        _field(record, "file_name", str, "images", file)
    records = content["images"][split_slice(split, len(content["images"]))]
    wanted = {record["id"] for record in records}
    classes = {number: label for label, number in enumerate(category_ids, start=1)}

    skipped: collections.Counter[str] = collections.Counter()
    annotations, instances = [], collections.defaultdict(list)
    for record in content["annotations"]:
        where = f"{file}: annotation {record['id']}"
        if type(image_id := record.get("image_id")) is not int or image_id not in sizes:
            raise UserError(f"{where} has the image_id {shorten(image_id)}, which no image has.")
        if type(category := record.get("category_id")) is not int or category not in classes:
            raise UserError(
                f"{where} has the category_id {shorten(category)}, which no category has."
            )
        box = _read_box(record, where)
        if image_id not in wanted:
            continue
        annotations.append(record)
        reason, instance = _instance(record, box, sizes[image_id], classes[category], where)
        if instance is None:
            skipped[reason] += 1
        else:
            instances[image_id].append(instance)
    images = tuple(
        CocoImage(folder / r["file_name"], sizes[r["id"]], tuple(instances[r["id"]]))
        for r in records
    )
    if missing := [image.path for image in images if not os.path.isfile(image.path)]:
        raise UserError(
            f"{file} names {len(missing)} images of {len(images)} that are not there, the first is "
            f"{missing[0]}."
        )
    truth = {"images": records, "annotations": annotations, "categories": content["categories"]}
    return CocoSplit(images, truth, skipped)


def _read_box(record: Record, where: str) -> tuple[float, float, float, float]:
    """`bbox` as `(y1, x1, y2, x2)`."""
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite_number, box)):
        raise UserError(f"{where} has the bbox {shorten(box)}; expected [x, y, width, height].")
    if not is_finite_number(area := record.get("area", 0)) or area < 0:
        raise UserError(f"{where} has the area {shorten(area)}; expected a number of pixels.")
    if (crowd := record.get("iscrowd")) not in (0, 1, None):
        raise UserError(f"{where} has the iscrowd {shorten(crowd)}; expected 0 or 1.")
    x, y, width, height = (float(side) for side in box)
    return y, x, y + height, x + width


def _instance(
    record: Record,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    label: int,
    where: str,
) -> tuple[str, Instance | None]:
    """The object to train on, or why there is none."""
    if "segmentation" not in record:
        raise UserError(f"{where} has no segmentation: instance segmentation needs masks.")
    segmentation = record["segmentation"]
    _check_segmentation(segmentation, size, where)
    if record.get("iscrowd"):
        return "crowds", None
    y1, x1, y2, x2 = box
    if y2 <= y1 or x2 <= x1:
        return "empty boxes", None
    clipped = (max(y1, 0.0), max(x1, 0.0), min(y2, float(size[0])), min(x2, float(size[1])))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return "boxes outside of their image", None
    area = float(record.get("area", (y2 - y1) * (x2 - x1)))
    return "", Instance(clipped, label, area, functools.partial(_decode, segmentation, size, where))


def _check_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> None:
    try:
        check_segmentation(segmentation, size)
    except UserError as error:
        raise UserError(f"{where}: {error}.") from error


def _decode(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    try:
        return decode_mask(segmentation, size)
    except UserError as error:
        raise UserError(f"{where}: {error}.") from error


def _report_skipped(split: CocoSplit, name: str, file: pathlib.Path) -> None:
    if split.skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(split.skipped.items()))
        logger.info("%s, split '%s': training leaves out %s.", file, name, counts)


def _field(record: Record, name: str, kind: type, group: str, file: pathlib.Path) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        number = record.get("id", "without id")
        raise UserError(
            f"{file}: {group}, {shorten(number)}: {name} is {shorten(value)}; expected "
            f"{kind.__name__}."
        )
    if isinstance(value, int) and abs(value) >= 2**63:  # ids of evaluations have 64 bits
        raise UserError(f"{file}: {group}: {name} is {shorten(value)}; expected less than 2**63.")
    return value
