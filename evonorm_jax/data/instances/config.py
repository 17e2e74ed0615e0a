"""`config.dataset` of images with objects: every field, its meaning, and the defaults."""

from __future__ import annotations

from typing import Any

import ml_collections

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.field_rules import check_fields, like

SOURCES = ("coco_json", "embedded", "generated")

_FIELDS: dict[str, Any] = {
    # Where the images come from.
    "path": "",  # coco_json: the folder with annotations/instances_<split>.json and <split>/
    "in_memory": True,  # True: lie on every device; False (coco_json): are read as training goes on
    "train_split": "train",  # name of the split; "train[:90%]" takes a part
    "eval_split": "val",  # the same for evaluation
    "keep_category_ids": False,  # coco_json: True makes classes of category ids, 91 for COCO
    # What the network sees.
    "image_size": 256,  # side of the canvas that every picture is fitted into, pixels
    "exif_orientation": True,  # coco_json: objects lie on the upright photograph; False: as stored
    "mean": (123.675, 116.28, 103.53),  # mean of red, green and blue, units 0 ... 255: ImageNet's
    "std": (58.395, 57.12, 57.375),  # standard deviation of each, the same units
    "max_instances": 100,  # most objects of an image in training; the smallest are left out
    "mask_size": 56,  # side of an object's mask within its box; a multiple of 8
    # Augmentation.
    "flip": True,  # mirror left to right with probability 1/2
    "scale_jitter": (1.0, 1.0),  # the picture is scaled by a factor between these
    # Sizes of generated scenes. Those of a real set are read where 0 stands, and checked otherwise.
    "num_train_examples": 0,  # images of the training split
    "num_eval_examples": 0,  # images of the evaluation split
    "num_classes": 0,  # number of classes with the background, which is class 0
    "digit_sizes": (16, 48),  # generated: sides of the digits, pixels
    # Reading as training goes on.
    "prefetch": 2,  # batches that are read ahead
}

# More than any picture, any image of cells and any head of masks has. Every object has a mask on
# the device, and the programs of far larger ones take hours to compile.
_MAX_SIDE, _MAX_INSTANCES, _MAX_MASK_SIZE = 2**14, 10_000, 1024

_RULES = {name: like(value) for name, value in {"name": "", "source": "", **_FIELDS}.items()}

_DATASETS: dict[str, dict[str, Any]] = {
    "coco2017": {
        "in_memory": False,
        "train_split": "train2017",
        "eval_split": "val2017",
        "keep_category_ids": True,
        "image_size": 1024,
        "mask_size": 112,
    },
    # Statistics of its training split: dark, and grey.
    "nuclei256": {"mean": (12.8,) * 3, "std": (17.6,) * 3},
    "digit_scenes": {
        "image_size": 128,
        "mean": (96.0,) * 3,
        "std": (64.0,) * 3,
        "max_instances": 6,
        "flip": False,
        "num_train_examples": 2000,
        "num_eval_examples": 200,
    },
}


def instance_dataset_config(name: str, source: str, **overrides: Any) -> ml_collections.ConfigDict:
    """Makes the complete `config.dataset` of a set of images with objects.

    >>> instance_dataset_config("nuclei256", "embedded").image_size
    256

    Args:
      name: Either "coco2017", "nuclei256", "digit_scenes", or your own.
      source: Either "coco_json", "embedded" (nuclei256) or "generated" (digit_scenes).
      **overrides: Values of any of the fields.

    Raises:
      UserError: The source or a field is unknown.
    """
    if source not in SOURCES:
        raise UserError(f"Unknown source '{source}': take one of {', '.join(SOURCES)}.")
    if unknown := sorted(set(overrides) - set(_FIELDS)):
        raise UserError(
            f"Unknown field {', '.join(unknown)} of config.dataset."
            f"{did_you_mean(unknown[0], _FIELDS)} It has {', '.join(_FIELDS)}."
        )
    fields = _FIELDS | _DATASETS.get(name, {})
    return ml_collections.ConfigDict({"name": name, "source": source} | fields | overrides)


def check_instance_fields(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no source accepts.

    Raises:
      UserError: There is one; the message names the field, its value and what it may be.
    """
    check_fields(config, _RULES, "config.dataset")
    jitter, sizes = tuple(config.scale_jitter), tuple(config.digit_sizes)
    side = config.image_size
    streams = config.source == "coco_json"
    rules = {
        "source": (config.source in SOURCES, f"one of {', '.join(SOURCES)}"),
        "in_memory": (config.in_memory or streams, "True for all sources but coco_json"),
        "image_size": (0 < side <= _MAX_SIDE, f"1 to {_MAX_SIDE:,} pixels"),
        "mean": (len(config.mean) == 3, "3 values (RGB), in units of 0 ... 255"),
        "std": (len(config.std) == 3 and min(config.std) > 0, "3 positive values"),
        "max_instances": (
            1 <= config.max_instances <= _MAX_INSTANCES,
            f"1 to {_MAX_INSTANCES:,}",
        ),
        "mask_size": (
            0 < config.mask_size <= _MAX_MASK_SIZE and config.mask_size % 8 == 0,
            f"a multiple of 8 pixels, up to {_MAX_MASK_SIZE:,}",
        ),
        "scale_jitter": (
            len(jitter) == 2 and 0 < jitter[0] <= jitter[1],
            "the smallest and the largest factor, above 0",
        ),
        "digit_sizes": (
            len(sizes) == 2 and 8 <= sizes[0] <= sizes[1] <= (side if not streams else sizes[1]),
            "the smallest and the largest side, from 8 pixels to image_size",
        ),
        "prefetch": (config.prefetch >= 1, "1 or more"),
    }
    for field, (holds, rule) in rules.items():
        if not holds:
            raise UserError(f"config.dataset.{field} is {config[field]!r}, but must be {rule}.")
