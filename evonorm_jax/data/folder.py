"""Class folders: `<root>/<split>/<class>/<image>`, the layout of ImageNet and of torchvision.

Labels follow the sorted names of the class folders. Examples are ordered by their rank within the
class, then by class, so that a part of a split ("train[:90%]") holds every class in proportion.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from evonorm_jax.data.arrays import Arrays, check_bytes
from evonorm_jax.data.pillow_images import read_image
from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """One split: the file of each example, and its label (int32)."""

    paths: list[str]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """Both splits of a class folder, which have the same classes; `train` may be left empty."""

    train: FolderSplit
    eval: FolderSplit
    class_names: tuple[str, ...]


def list_class_folder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> ClassFolder:
    """Lists the images of both splits, or of the evaluation split alone; opens none of them.

    Raises:
      UserError: A folder is missing, a class is empty, there are fewer than two classes, or the
        splits have different ones.
    """
    root = pathlib.Path(config.path).expanduser()
    if not config.path or not root.is_dir():
        splits = (
            (config.eval_split,) if evaluation_only else (config.train_split, config.eval_split)
        )
        raise UserError(
            f"There is no folder '{config.path}': config.dataset.path must name the folder that"
            f" holds {' and '.join(f'{split}/<class>/<image>' for split in splits)}."
        )
    if evaluation_only:
        evaluation, class_names = _list_split(root, config, "eval_split")
        return ClassFolder(FolderSplit([], np.zeros(0, np.int32)), evaluation, class_names)
    train, class_names = _list_split(root, config, "train_split")
    evaluation, eval_names = _list_split(root, config, "eval_split")
    if different := sorted(set(class_names) ^ set(eval_names)):
        raise UserError(
            f"The splits '{config.train_split}' and '{config.eval_split}' of '{root}' have"
            f" different classes: {_some(different)} stand in one of them only."
        )
    return ClassFolder(train, evaluation, class_names)


def load_class_folder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> Arrays:
    """Reads a class folder into memory, as many threads as there are processors.

    Images are decoded to as many channels as `config.mean` has values (RGB or grey), cropped and
    resized as `read_image` says.

    Raises:
      UserError: As `list_class_folder`, or a file cannot be decoded.
    """
    folder = list_class_folder(config, evaluation_only=evaluation_only)
    check_bytes(config, len(folder.train.paths) + len(folder.eval.paths))
    read = functools.partial(
        read_image,
        size=config.image_size,
        resize=config.resize_size or config.image_size,
        channels=len(config.mean),
        resize_method=config.resize_method,
    )
    # The decoders release the lock, so threads suffice; chunks keep the queue of futures short.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def load(split: FolderSplit) -> np.ndarray:
            shape = (len(split.paths), config.image_size, config.image_size, len(config.mean))
            images = np.empty(shape, np.uint8)
            chunk = 1024
            for first in range(0, len(split.paths), chunk):
                part = pool.map(read, split.paths[first : first + chunk])
                images[first : first + chunk] = list(part)
            return images

        return Arrays(
            train_images=load(folder.train),
            train_labels=folder.train.labels,
            eval_images=load(folder.eval),
            eval_labels=folder.eval.labels,
            num_classes=len(folder.class_names),
            class_names=folder.class_names,
        )


def _list_split(
    root: pathlib.Path, config: ml_collections.ConfigDict, field: str
) -> tuple[FolderSplit, tuple[str, ...]]:
    split = config[field]
    name, *_ = parse_split(split)
    folder = root / name
    if not folder.is_dir():
        there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        raise UserError(
            f"There is no split '{name}' in '{root}', which has {_some(there) or 'no folders'}: set"
            f" config.dataset.{field} to the name of one of its folders."
        )
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(classes) < 2:
        raise UserError(
            f"'{folder}' has {len(classes)} class folders, but a classifier needs two or more:"
            " expected <class>/<image> below it."
        )
    ranked = []
    for label, class_name in enumerate(classes):
        files = sorted(
            entry.path
            for entry in os.scandir(folder / class_name)
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        )
        if not files:
            raise UserError(
                f"The class folder '{folder / class_name}' holds no image with one of the endings"
                f" {', '.join(EXTENSIONS)}."
            )
        ranked += [(rank, label, path) for rank, path in enumerate(files)]
    ranked.sort()
    part = ranked[split_slice(split, len(ranked))]
    labels = np.array([label for _, label, _ in part], np.int32)
    return FolderSplit([path for _, _, path in part], labels), tuple(classes)


def _some(names: list[str]) -> str:
    """Lists the first eight of the names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
