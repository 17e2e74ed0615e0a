"""`config.dataset`: every field, its meaning, and the defaults of the data sets of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.field_rules import check_fields as check_types
from evonorm_jax.field_rules import like

if TYPE_CHECKING:
    import ml_collections

SOURCES = ("embedded", "fake", "folder", "npz", "tfds")

_FIELDS: dict[str, Any] = {
    # Where the images come from.
    "path": "",  # class folder, .npz file or data_dir of TFDS; "" = the default place
    "in_memory": True,  # True: lie as uint8 on every device; False: are streamed by the host
    "train_split": "train",  # subfolder, TFDS split or key x_<split>; "train[:90%]" takes a part
    "eval_split": "test",  # the same for evaluation
    # A class folder without these two subfolders is split by itself.
    "eval_fraction": 0.2,  # share of each class that is for evaluation
    "split_seed": 0,  # seed that draws it
    # What the network sees.
    "image_size": 32,  # side, pixels; in training unless train_crop_size is set; -1 = fit to data
    "train_crop_size": 0,  # side in training, pixels; 0 = image_size
    "resize_size": 0,  # shorter side before the centre crop, pixels; 0 = image_size
    "mean": (127.5, 127.5, 127.5),  # mean of each channel, units 0 ... 255
    "std": (127.5, 127.5, 127.5),  # standard deviation of each channel, the same units
    "exif_orientation": True,  # True: photographs are turned upright; False: stay as stored
    "resize_method": "bicubic",  # "bicubic" without antialiasing, or "area": the mean of the pixels
    # Augmentation.
    "train_crop": "random",  # streaming: "random" (resized), or "center" as in evaluation
    "flip": False,  # mirror left to right with probability 1/2
    "pad": 0,  # in memory: zeros added on each side before the random crop, pixels
    "min_crop_area": 0.08,  # streaming: smallest share of the image in a random resized crop
    "randaugment_layers": 0,  # streaming: operations of RandAugment on an image; 0 = off
    "randaugment_magnitude": 0,  # strength of RandAugment, 0 ... 30; see randaugment.py
    "autoaugment": False,  # streaming: the ImageNet policy of AutoAugment, see autoaugment.py
    # Sizes of fake data. Those of a real set are read where 0 stands, and checked otherwise.
    "num_train_examples": 0,  # images of the training split
    "num_eval_examples": 0,  # images of the evaluation split
    "num_classes": 0,  # number of classes
    # Streaming by tf.data.
    "shuffle_buffer": 16_384,  # TFDS records that are shuffled at a time (2 GB of ImageNet)
    "num_parallel_calls": -1,  # images decoded at once; -1 = tf.data decides
    "prefetch": 2,  # batches that are prepared ahead
}

_RULES = {name: like(value) for name, value in {"name": "", "source": "", **_FIELDS}.items()}

_CIFAR = {"image_size": 32, "pad": 4, "flip": True}
# Statistics of the training splits. The digits are not flipped: a mirrored 2 is no digit.
_DATASETS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 8, "pad": 1, "mean": (77.98,), "std": (95.89,)},
    "cifar10": {**_CIFAR, "mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)},
    "cifar100": {**_CIFAR, "mean": (129.3, 124.1, 112.4), "std": (68.2, 65.4, 70.4)},
    "imagenet2012": {
        "in_memory": False,
        "image_size": 224,
        "resize_size": 256,
        "flip": True,
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
    },
}


def dataset_config(name: str, source: str, **overrides: Any) -> ml_collections.ConfigDict:
    """Makes the complete `config.dataset` of a data set, see `dataset_fields`.

    Where `resize_size` is a default, it follows `image_size` in the ratio of ImageNet's 256 to 224.

    >>> dataset_config("cifar10", "tfds", pad=2).pad
    2
    >>> dataset_config("imagenet2012", "tfds", image_size=288).resize_size
    329
    """
    # Here, because benchmarks run where it is missing.
    from ml_collections import ConfigDict, FieldReference

    fields = dataset_fields(name, source, **overrides)
    if "resize_size" not in overrides and fields["resize_size"]:
        size = FieldReference(fields["image_size"])
        fields |= {"image_size": size, "resize_size": size_before_crop(size)}
    return ConfigDict(fields)


def size_before_crop(image_size: Any) -> Any:
    """Returns the `resize_size` that goes with an `image_size`: 8/7 of it, rounded; for -1, -1.

    >>> size_before_crop(224), size_before_crop(-1)
    (256, -1)
    """
    return (image_size * 8 + 3) // 7


def dataset_fields(name: str, source: str, **overrides: Any) -> dict[str, Any]:
    """Name and value of every field of `config.dataset`.

    Args:
      name: Either "digits", "cifar10", "cifar100", "imagenet2012", the name of another TFDS set, or
        your own; a set without defaults of its own has those of ImageNet, held in memory if it is
        an .npz file. "" stands for the name of its folder.
      source: Either "embedded", "tfds", "folder", "npz" or "fake".
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
    fields = _FIELDS | _DATASETS.get(name, _DATASETS["imagenet2012"])
    if name == "imagenet2012" and source == "tfds":
        fields["eval_split"] = "validation"
    elif source == "folder" and name not in ("cifar10", "cifar100"):
        fields["eval_split"] = "val"
    if source == "npz":
        fields["in_memory"] = True
    return {"name": name, "source": source} | fields | overrides


def dataset_name(config: ml_collections.ConfigDict) -> str:
    """Returns the name of a data set, or where it has none, that of its folder or file.

    >>> dataset_name(dataset_config("", "folder", path="photos/"))
    'photos'
    """
    if config.name or not config.path:
        return config.name or config.source
    return Path(config.path).expanduser().absolute().name


def describe_dataset(config: ml_collections.ConfigDict) -> str:
    """Says which images a person is looking at: their place where the data are their own.

    >>> describe_dataset(dataset_config("imagenet2012", "folder", path="data/flowers"))
    'data/flowers'
    >>> describe_dataset(dataset_config("imagenet2012", "fake"))
    'fake images (random pixels) in place of imagenet2012'
    """
    if config.source == "fake":
        of_what = f" in place of {config.name}" if config.name not in ("", "fake") else ""
        return f"fake images (random pixels){of_what}"
    return config.path if config.source in ("folder", "npz") else config.name


def check_fields(config: ml_collections.ConfigDict, *, may_fit_to_data: bool = False) -> None:
    """Refuses values that no source accepts.

    Args:
      config: The section `config.dataset`.
      may_fit_to_data: Whether `image_size` may still be -1.

    Raises:
      UserError: There is one; the message names the field, its value and what it may be.
    """
    check_types(config, _RULES, "config.dataset")
    fitted = may_fit_to_data and config.image_size == -1
    crop = config.train_crop_size or config.image_size
    mean, std = tuple(config.mean), tuple(config.std)
    rules = {
        "source": (config.source in SOURCES, f"one of {', '.join(SOURCES)}"),
        "eval_fraction": (0 < config.eval_fraction < 1, "a share of each class, above 0, below 1"),
        "mean": (len(mean) in (1, 3), "1 value (grey) or 3 (RGB), in units of 0 ... 255"),
        "std": (
            len(std) == len(mean) and min(std, default=0) > 0,
            "positive, as many values as mean has",
        ),
        "image_size": (fitted or config.image_size > 0, "a positive number of pixels"),
        "pad": (config.pad >= 0, "0 or more pixels"),
        "train_crop_size": (
            fitted
            or (crop > 0 and (not config.in_memory or crop <= config.image_size + 2 * config.pad)),
            "0 (= image_size) or a number of pixels; in memory at most image_size + 2 * pad",
        ),
        "resize_size": (
            config.resize_size == 0 or config.resize_size >= config.image_size,
            "0 (= image_size) or at least image_size",
        ),
        "train_crop": (config.train_crop in ("random", "center"), "'random' or 'center'"),
        "resize_method": (config.resize_method in ("bicubic", "area"), "'bicubic' or 'area'"),
        "min_crop_area": (0 < config.min_crop_area <= 1, "a share of the image in (0, 1]"),
        "randaugment_layers": (config.randaugment_layers >= 0, "0 (off) or more"),
        "randaugment_magnitude": (0 <= config.randaugment_magnitude <= 30, "0 to 30"),
        "autoaugment": (
            not (config.autoaugment and config.randaugment_layers),
            "False where randaugment_layers is above 0",
        ),
        "shuffle_buffer": (config.shuffle_buffer > 0, "1 or more"),
        "num_parallel_calls": (
            config.num_parallel_calls == -1 or config.num_parallel_calls > 0,
            "-1 (tf.data decides) or 1 or more",
        ),
        "prefetch": (config.prefetch == -1 or config.prefetch > 0, "-1 (tf.data decides) or >= 1"),
    }
    for field, (holds, rule) in rules.items():
        if not holds:
            raise UserError(f"config.dataset.{field} is {config[field]!r}, but must be {rule}.")
