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
import pathlib
import zipfile

import ml_collections
import numpy as np

from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.errors import UserError

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
    path = pathlib.Path(config.path)
    if not config.path or not path.is_file():
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


def _read_npz(
    path: pathlib.Path, config: ml_collections.ConfigDict, evaluation_only: bool
) -> Arrays:
    try:
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream) as file:
            eval_images, eval_labels = _read_split(path, file, config.eval_split)
            if evaluation_only:
                train_images, train_labels = eval_images[:0], eval_labels[:0]
                known_labels = _train_labels(file, config.train_split, eval_labels)
            else:
                train_images, train_labels = _read_split(path, file, config.train_split)
                known_labels = train_labels
            names = tuple(map(str, file["class_names"])) if "class_names" in file else None
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"'{path}' cannot be read as an .npz file ({error}): write it with numpy.savez, with no"
            " arrays of Python objects."
        ) from error
    num_classes = len(names) if names else config.num_classes or int(known_labels.max()) + 1
    for split, labels in ((config.train_split, train_labels), (config.eval_split, eval_labels)):
        if len(labels) == 0:
            continue
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(
                f"The labels of split '{split}' in '{path}' run from {labels.min()} to"
                f" {labels.max()}, but with {num_classes} classes they must lie in"
                f" 0 ... {num_classes - 1}."
            )
    return Arrays(train_images, train_labels, eval_images, eval_labels, num_classes, names)


def _train_labels(file: np.lib.npyio.NpzFile, split: str, eval_labels: np.ndarray) -> np.ndarray:
    """The labels that training counted its classes by; those of evaluation if they are missing."""
    name, *_ = parse_split(split)
    if f"y_{name}" not in file:
        return eval_labels
    labels = file[f"y_{name}"].ravel()
    return labels[split_slice(split, len(labels))]


def _read_split(
    path: pathlib.Path, file: np.lib.npyio.NpzFile, split: str
) -> tuple[np.ndarray, np.ndarray]:
    name, *_ = parse_split(split)
    keys = (f"x_{name}", f"y_{name}")
    if missing := [key for key in keys if key not in file]:
        raise UserError(
            f"'{path}' has no array {' and '.join(missing)} for split '{split}': it has"
            f" {', '.join(file.files) or 'none'}; x_{name} holds the images, y_{name} the labels."
        )
    images, labels = (file[key] for key in keys)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise UserError(
            f"'{keys[0]}' in '{path}' is {images.dtype} {list(images.shape)}: images must be uint8"
            " [N, H, W] or [N, H, W, C], values 0 to 255."
        )
    images = images if images.ndim == 4 else images[..., np.newaxis]
    if labels.ndim == 2 and labels.shape[1] == 1:  # as keras.datasets.cifar10 has them
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise UserError(
            f"'{keys[1]}' in '{path}' is {labels.dtype} {list(labels.shape)}: labels must be"
            f" integers [{len(images)}], one for each image of '{keys[0]}'."
        )
    if not len(images):
        raise UserError(f"'{keys[0]}' in '{path}' holds no images.")
    part = split_slice(split, len(images))
    return images[part], labels[part].astype(np.int32)
