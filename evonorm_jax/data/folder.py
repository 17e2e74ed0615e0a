"""Class folders: `<root>/<split>/<class>/<image>`, or `<root>/<class>/<image>` without splits.

The first is the layout of ImageNet and of torchvision. A folder of the second kind, "flat", is
split here: `config.eval_fraction` of each class, drawn by `config.split_seed`, is for evaluation.

Labels follow the sorted names of the class folders. Examples are ordered by their rank within the
class, then by class, so that a part of a split ("train[:90%]") holds every class in proportion.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from evonorm_jax.data.arrays import Arrays, check_bytes
from evonorm_jax.data.folder_scan import (
    EXTENSIONS,
    ClassFiles,
    LeftOut,
    has_folders,
    holds_images_alone,
    is_flat,
    is_hidden,
    is_split,
    scan_classes,
)
from evonorm_jax.data.pillow_images import read_image
from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.display import WaitLog
from evonorm_jax.errors import UserError
from evonorm_jax.input_files import printable, reason, some

if TYPE_CHECKING:
    import ml_collections

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """One split: the file of each example, and its label (int32)."""

    paths: list[str]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """Both splits of a class folder, which have the same classes; `train` may be left empty.

    Attributes:
      train: The split for training.
      eval: The split for evaluation.
      class_names: Names of the classes, in the order of their labels.
      notes: What to tell the user: how a flat folder was split, and what is left out.
    """

    train: FolderSplit
    eval: FolderSplit
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


_NOTHING = FolderSplit([], np.zeros(0, np.int32))


def list_class_folder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> ClassFolder:
    """Lists the images of both splits, or of the evaluation split alone; opens none of them.

    How a flat folder was split, and what is left out, is logged.

    Raises:
      UserError: A folder is missing or cannot be read, a class is empty or too small to be split,
        there are fewer than two classes, the splits have different ones, or what is called an image
        is no regular file.
    """
    folder = find_class_folder(config, evaluation_only=evaluation_only)
    for note in folder.notes:
        logger.info(note)
    return folder


def find_class_folder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> ClassFolder:
    """Does what `list_class_folder` does, and logs nothing."""
    try:
        return _list_class_folder(config, evaluation_only)
    except OSError as error:  # links in a circle, too long a path, no permission
        raise UserError(
            f"'{printable(error.filename or config.path)}' cannot be read ({reason(error)}): mend"
            " or remove it, or set config.dataset.path to another folder."
        ) from error


def _list_class_folder(config: ml_collections.ConfigDict, evaluation_only: bool) -> ClassFolder:
    root = pathlib.Path(os.path.expanduser(config.path))
    names = [parse_split(split)[0] for split in (config.train_split, config.eval_split)]
    if not config.path or not root.is_dir():
        where = f"There is no folder '{config.path}'" if config.path else "No folder is named"
        if root.is_file():
            where = f"'{config.path}' is a file"
        needed = names[1:] if evaluation_only else names
        raise UserError(
            f"{where}: config.dataset.path must name the folder that holds <class>/<image>, or"
            f" {' and '.join(f'{name}/<class>/<image>' for name in needed)}."
        )
    left_out = LeftOut()
    if not any(is_split(root / name) for name in names) and is_flat(root):
        folder = _split_flat_folder(scan_classes(root, left_out), config)
        if evaluation_only:
            folder = dataclasses.replace(folder, train=_NOTHING)
    else:
        folder = _list_splits(root, config, left_out, evaluation_only)
    return dataclasses.replace(folder, notes=(*folder.notes, *left_out.notes()))


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
    number = len(folder.train.paths) + len(folder.eval.paths)
    check_bytes(config, number)
    waiting = WaitLog(logger, f"Reading images of {config.path} into memory", number)
    read = functools.partial(
        read_image,
        size=config.image_size,
        resize=config.resize_size or config.image_size,
        channels=len(config.mean),
        resize_method=config.resize_method,
        upright=config.exif_orientation,
    )
    # The decoders release the lock, so threads suffice; chunks keep the queue of futures short.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def load(split: FolderSplit) -> np.ndarray:
            shape = (len(split.paths), config.image_size, config.image_size, len(config.mean))
            images = np.empty(shape, np.uint8)
            chunk = 1024
            for first in range(0, len(split.paths), chunk):
                part = pool.map(read, split.paths[first : first + chunk])
                for index, image in enumerate(part, start=first):
                    images[index] = image
                    waiting.add()
            return images

        return Arrays(
            train_images=load(folder.train),
            train_labels=folder.train.labels,
            eval_images=load(folder.eval),
            eval_labels=folder.eval.labels,
            num_classes=len(folder.class_names),
            class_names=folder.class_names,
        )


def _list_splits(
    root: pathlib.Path,
    config: ml_collections.ConfigDict,
    left_out: LeftOut,
    evaluation_only: bool,
) -> ClassFolder:
    """Lists `<root>/<split>/<class>/<image>`."""
    evaluation: ClassFiles | None = None
    train = _NOTHING
    if not evaluation_only:
        files = _scan_split(root, config, "train_split", left_out)
        train = _take_part(files.files, config.train_split)
        if parse_split(config.eval_split)[0] == parse_split(config.train_split)[0]:
            evaluation = files
    if evaluation is None:
        evaluation = _scan_split(root, config, "eval_split", left_out)
    if not evaluation_only and (
        different := sorted(set(files.class_names) ^ set(evaluation.class_names))
    ):
        raise UserError(
            f"The splits '{config.train_split}' and '{config.eval_split}' of '{root}' have"
            f" different classes: {some(different)} stand in one of them only. Add their images to"
            " the other, or remove their folders."
        )
    return ClassFolder(
        train, _take_part(evaluation.files, config.eval_split), evaluation.class_names
    )


def _scan_split(
    root: pathlib.Path, config: ml_collections.ConfigDict, field: str, left_out: LeftOut
) -> ClassFiles:
    name, *_ = parse_split(config[field])
    if not (root / name).is_dir():
        if holds_images_alone(root):
            raise UserError(
                f"'{root}' holds images, but no folders: config.dataset.path must name a folder"
                " with one folder for each class, and the images of a class in its folder."
            )
        there = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name)
        )
        if not any(has_folders(root / folder) for folder in there):
            empty = (
                f"{some(there)} of '{root}' hold no images"
                if there
                else f"'{root}' holds no folders"
            )
            raise UserError(
                f"{empty}: config.dataset.path must name a folder with one folder for each class,"
                f" and in it images with one of the endings {', '.join(EXTENSIONS)}."
            )
        raise UserError(
            f"There is no split '{name}' in '{root}', which has {some(there)}: set"
            f" config.dataset.{field} to the name of one of its folders, or to a part of one, such"
            " as 'train[80%:]' beside 'train[:80%]'."
        )
    return scan_classes(root / name, left_out)


def _split_flat_folder(listed: ClassFiles, config: ml_collections.ConfigDict) -> ClassFolder:
    """Splits every class, or takes the parts that the config itself names of one split."""
    train_name, eval_name = (parse_split(config[f])[0] for f in ("train_split", "eval_split"))
    train, evaluation = listed.files, listed.files
    if train_name != eval_name:
        train, evaluation = {}, {}
        for name, files in listed.files.items():
            drawn = _draw_evaluation(listed.folder / name, files, config)
            train[name] = [path for path in files if path not in drawn]
            evaluation[name] = sorted(drawn)
    folder = ClassFolder(
        _take_part(train, config.train_split),
        _take_part(evaluation, config.eval_split),
        listed.class_names,
    )
    if train_name == eval_name:
        missing = f"'{train_name}'"
        how = f"by config.dataset.train_split={config.train_split!r} and"
        how += f" eval_split={config.eval_split!r}"
    else:
        missing = f"'{train_name}' and '{eval_name}'"
        how = f"drawn by config.dataset.eval_fraction={config.eval_fraction:g} of each class and"
        how += f" split_seed={config.split_seed}"
    note = (
        f"{listed.folder} has {len(listed.files)} class folders and no {missing}:"
        f" {len(folder.train.paths):,} images are for training and {len(folder.eval.paths):,} for"
        f" evaluation, {how}."
    )
    return dataclasses.replace(folder, notes=(note,))


def _draw_evaluation(
    folder: pathlib.Path, files: list[str], config: ml_collections.ConfigDict
) -> set[str]:
    """Draws the images of a class that are for evaluation: at least one, and never all of them.

    The draw goes by a hash of seed, class and file name. So it does not depend on where the folder
    lies, and an image that is added later moves few of the others.
    """
    if len(files) < 2:
        raise UserError(
            f"The class folder '{folder}' holds 1 image, but training and evaluation each need one:"
            " add an image, or remove the folder."
        )
    number = min(max(1, round(config.eval_fraction * len(files))), len(files) - 1)
    prefix = os.fsencode(f"{config.split_seed}/{folder.name}/")

    def rank(path: str) -> bytes:
        return hashlib.sha256(prefix + os.fsencode(os.path.basename(path))).digest()

    return set(sorted(files, key=rank)[:number])


def _take_part(files: dict[str, list[str]], split: str) -> FolderSplit:
    """Labels the files, the first of every class first, and takes the part that `split` names."""
    ranked = sorted(
        (rank, label, path)
        for label, paths in enumerate(files.values())
        for rank, path in enumerate(paths)
    )
    part = ranked[split_slice(split, len(ranked))]
    labels = np.array([label for _, label, _ in part], np.int32)
    return FolderSplit([path for _, _, path in part], labels)
