"""Data sets as four arrays: the embedded digits, .npz files and fake data.

The digits are scikit-learn's `load_digits`, that is the test part of "Optical Recognition of
Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0):
1797 grey images of 8x8 pixels with the values 0 ... 16, stored here as round(value * 255 / 16).
The split is fixed: sorted by class, in the original order within a class, every fifth image is a
test image (1437 for training, 360 for testing, each class within one image of a fifth). Both
splits are then shuffled by `np.random.default_rng(0)`, so that any part of one mixes the classes.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.errors import UserError
from evonorm_jax.npz_file import NpzFile

if TYPE_CHECKING:
    import ml_collections

MAX_BYTES = 64 * 2**30  # more than any accelerator has to spare beside a network
DIGITS_PATH = pathlib.Path(__file__).parent / "digits.npz"


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Images uint8 `[N, H, W, C]` and labels int32 `[N]` of both splits.

    A data set for evaluation only has N = 0 in training.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] | None = None


def load_digits(config: ml_collections.ConfigDict, *, evaluation_only: bool = False) -> Arrays:
    """Loads the embedded digits."""
    if config.name != "digits":
        raise UserError(
            f"No data set '{config.name}' is embedded: config.dataset.source='embedded' has"
            " 'digits' alone. Take the source 'tfds', 'folder' or 'npz' for another."
        )
    if config.path:
        raise UserError(
            f"config.dataset.path is '{config.path}', but the digits are part of the package:"
            " leave it empty, or take the source 'npz' for a file."
        )
    return _read_npz(DIGITS_PATH, config, evaluation_only)


def load_npz(config: ml_collections.ConfigDict, *, evaluation_only: bool = False) -> Arrays:
    """Loads an .npz file as keras writes them.

    Keys, for the splits "train" and "test": `x_train` and `x_test`, uint8 `[N, H, W]` or
    `[N, H, W, C]` with C 1 or 3; `y_train` and `y_test`, integers from 0, `[N]` or `[N, 1]`;
    optionally `class_names`, strings, one per label. For evaluation only, neither `x_train` nor
    `y_train` needs to be there; `y_train` tells the number of classes where nothing else does.

    Raises:
      UserError: The file is missing or breaks one of these rules.
    """
    path = pathlib.Path(os.path.expanduser(config.path))
    if not config.path or not os.path.exists(path):
        raise UserError(
            f"There is no file '{config.path}': config.dataset.path must name the .npz file."
        )
    return _read_npz(path, config, evaluation_only)


def fake_arrays(
    config: ml_collections.ConfigDict, seed: int, *, evaluation_only: bool = False
) -> Arrays:
    """Makes random pixels with labels that go round: nothing to learn, nothing on the disk."""
    num_train, num_eval, num_classes = fake_sizes(config, evaluation_only=evaluation_only)
    check_bytes(config, num_train + num_eval)
    shape = (config.image_size, config.image_size, len(config.mean))
    rng = np.random.default_rng(seed)

    def images(number: int) -> np.ndarray:
        return rng.integers(0, 256, (number, *shape), np.uint8)

    eval_images = images(num_eval)  # first, so that they are the same without a training split
    return Arrays(
        train_images=images(num_train),
        train_labels=np.arange(num_train, dtype=np.int32) % num_classes,
        eval_images=eval_images,
        eval_labels=np.arange(num_eval, dtype=np.int32) % num_classes,
        num_classes=num_classes,
    )


def fake_sizes(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> tuple[int, int, int]:
    """Returns the numbers of training and evaluation examples and of classes of fake data."""
    sizes = (config.num_train_examples, config.num_eval_examples, config.num_classes)
    if evaluation_only:
        sizes = (0, *sizes[1:])
    if min(sizes[evaluation_only:]) < 1:
        raise UserError(
            "Fake data needs sizes: config.dataset.num_train_examples, num_eval_examples and"
            f" num_classes are {sizes}, but must be 1 or more."
        )
    return sizes


def check_bytes(config: ml_collections.ConfigDict, num_examples: int) -> None:
    """Refuses to load what no device can hold, before it is read.

    Raises:
      UserError: It is too large; the message names the size and the remedy.
    """
    size = num_examples * config.image_size**2 * len(config.mean)
    if size > MAX_BYTES:
        raise UserError(
            f"'{config.name}' takes {size / 2**30:.0f} GiB on every device as {num_examples} images"
            f" of {config.image_size} pixels: set config.dataset.in_memory=False to stream it."
        )


def check_labels(labels: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Returns labels as int32, after they were checked as they are: a cast could make them fit.

    Raises:
      UserError: Some are not in 0 ... num_classes - 1; the message starts with "The labels of
        {where}".
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise UserError(
            f"The labels of {where} run from {labels.min()} to {labels.max()}, but with"
            f" {num_classes} classes they must lie in 0 ... {num_classes - 1}."
        )
    return labels.astype(np.int32)


def _read_npz(
    path: pathlib.Path, config: ml_collections.ConfigDict, evaluation_only: bool
) -> Arrays:
    with NpzFile(path) as file:
        eval_images, eval_labels = _read_split(path, file, config.eval_split)
        if evaluation_only:
            train_images, train_labels = eval_images[:0], eval_labels[:0]
            known_labels = _train_labels(path, file, config.train_split, eval_labels)
        else:
            train_images, train_labels = _read_split(path, file, config.train_split)
            known_labels = train_labels
        names = _read_names(path, file) if "class_names" in file else None
    if names or config.num_classes:
        num_classes = len(names) if names else config.num_classes
    else:
        num_classes = _count_classes(path, known_labels, len(known_labels) + len(eval_labels))
    train, evaluation = (
        check_labels(labels, num_classes, f"split '{split}' in '{path}'")
        for split, labels in ((config.train_split, train_labels), (config.eval_split, eval_labels))
    )
    return Arrays(train_images, train, eval_images, evaluation, num_classes, names)


def _count_classes(path: pathlib.Path, labels: np.ndarray, num_examples: int) -> int:
    """The classes 0 to the largest label: a wild one would make a head of billions."""
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0:
        raise UserError(f"The labels in '{path}' run from {smallest}: classes count from 0.")
    if largest >= num_examples:
        raise UserError(
            f"The largest label in '{path}' is {largest}, which makes {largest + 1} classes of"
            f" {num_examples} examples: number the classes 0, 1, 2, ..., or set"
            " config.dataset.num_classes if so many have no example."
        )
    return largest + 1


def _read_names(path: pathlib.Path, file: NpzFile) -> tuple[str, ...]:
    shape, dtype = file.header("class_names")
    if dtype.kind != "U" or len(shape) != 1:
        raise UserError(
            f"'class_names' in '{path}' is {dtype} {list(shape)}: class names must be text"
            " [number of classes]."
        )
    return tuple(map(str, file.read("class_names")))


def _train_labels(
    path: pathlib.Path, file: NpzFile, split: str, eval_labels: np.ndarray
) -> np.ndarray:
    """The labels that training counted its classes by; those of evaluation if they are missing."""
    name, *_ = parse_split(split)
    if f"y_{name}" not in file:
        return eval_labels
    labels = _read_labels(path, file, f"y_{name}", None)
    return labels[split_slice(split, len(labels))]


def _read_split(path: pathlib.Path, file: NpzFile, split: str) -> tuple[np.ndarray, np.ndarray]:
    name, *_ = parse_split(split)
    x, y = f"x_{name}", f"y_{name}"
    if missing := [key for key in (x, y) if key not in file]:
        raise UserError(
            f"'{path}' has no array {' and '.join(missing)} for split '{split}': it has"
            f" {', '.join(file.names) or 'none'}; x_{name} holds the images, y_{name} the labels."
        )
    shape, dtype = file.header(x)
    if dtype != np.uint8 or len(shape) not in (3, 4):
        raise UserError(
            f"'{x}' in '{path}' is {dtype} {list(shape)}: images must be uint8 [N, H, W] or"
            " [N, H, W, C], values 0 to 255."
        )
    if not shape[0]:
        raise UserError(f"'{x}' in '{path}' holds no images.")
    labels = _read_labels(path, file, y, shape[0])
    images = file.read(x)
    images = images if images.ndim == 4 else images[..., np.newaxis]
    part = split_slice(split, len(images))
    return images[part], labels[part]


def _read_labels(
    path: pathlib.Path, file: NpzFile, name: str, num_images: int | None
) -> np.ndarray:
    """Labels `[N]` of any integer type; keras.datasets.cifar10 has them as `[N, 1]`."""
    shape, dtype = file.header(name)
    flat = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
    expected = flat if num_images is None else (num_images,)
    if dtype.kind not in "iu" or len(flat) != 1 or flat != expected:
        raise UserError(
            f"'{name}' in '{path}' is {dtype} {list(shape)}: labels must be integers"
            f" {list(expected) if num_images else '[N]'}, one for each image."
        )
    return file.read(name).ravel()
