"""Sizes of a run that follow from its data: a field that is -1 is chosen here when the run starts.

Any config may leave fields to this; `configs/finetune_folder.py` leaves all of them. What is chosen
stands in the run's `config.json`, and a run that resumes keeps it, though the data may have grown.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.data.config import dataset_name, size_before_crop
from evonorm_jax.data.image_sizes import sample_shorter_sides, stored_image_size
from evonorm_jax.errors import UserError
from evonorm_jax.models import native_image_size
from evonorm_jax.run_files import CONFIG_FILE, read_json

if TYPE_CHECKING:
    import ml_collections

#: The fields that may be -1, which leaves the choice to the data.
FIELDS = (
    "dataset.image_size",
    "images_per_worker",
    "num_steps",
    "schedule.warmup_epochs",
    "eval_every_epochs",
    "optimizer.learning_rate",
)

# The networks halve their maps five times: 32 pixels leave a last map of one. From weights, images
# are enlarged to 128 pixels, as the BiT-HyperRule (below) does with those under 96.
_STRIDE = 32
_SMALLEST_TUNED = 128
# A ResNet-50 trains on 64 images of 224 pixels in float32 with 5 GB of memory, which GPUs have.
_LARGEST_BATCH = 64
_PIXELS = 224
# Fewer than 8 images make a noisy gradient, and batch statistics of little meaning.
_SMALLEST_BATCH = 8
# Above them, an epoch has 8 steps or more: a small set is not seen many times for few updates.
_STEPS_PER_EPOCH = 8
# From weights: the range of the BiT-HyperRule (Kolesnikov et al., "Big Transfer", 2020, section
# 3.3), 500 steps for the smallest data sets and 10,000 for large ones; between them, 20 epochs.
_TUNING_STEPS, _TUNING_EPOCHS = (500, 10_000), 20
# From scratch: the 90 epochs that are usual for ImageNet, and enough steps where those are few.
_SCRATCH_STEPS, _SCRATCH_EPOCHS = 1000, 90
# CIFAR-10 has 50,000 images, and nets of its size are trained from scratch.
_FEW = 50_000
# A tenth of the run warms up, at most the 500 steps of the BiT-HyperRule.
_WARMUP_SHARE, _WARMUP_STEPS = 0.1, 500
# Each evaluation saves a checkpoint too, so that a run of short epochs does not make one of each.
_EVALUATIONS = 20
# From weights: SGD's 0.003 for any batch is that of the BiT-HyperRule; Adam's is a tenth of the
# usual. The head is new, and learns ten times as fast. From scratch: Goyal et al. 2017 (0.1 for 256
# images, linear in the batch), and Adam's default (Kingma and Ba 2015).
_TUNING_RATES = {"sgd": 0.003, "adam": 1e-4, "adamw": 1e-4}
_TUNING_MULTIPLIERS = ("head=10",)
_SCRATCH_RATES = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> ml_collections.ConfigDict:
    """Names the data set by its folder where it has no name, and takes what an earlier start chose.

    Args:
      config: A config with all fields, is left as it is.
      workdir: The run directory, which need not be there.

    Returns:
      The config, or a changed copy.

    Raises:
      UserError: The file with the config of the run directory is damaged.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if not config.dataset.name:
            config.dataset.name = dataset_name(config.dataset)
        open_fields = [name for name in FIELDS if _is_open(config, name)]
        if open_fields and (workdir / CONFIG_FILE).is_file():
            saved = read_json(workdir / CONFIG_FILE)
            if "optimizer.learning_rate" in open_fields and not config.optimizer.rate_multipliers:
                open_fields.append("optimizer.rate_multipliers")  # was chosen with the rate
            if _is_open(config, "dataset.resize_size"):
                open_fields.append("dataset.resize_size")  # follows image_size
            for name in open_fields:
                if (value := _find(saved, name)) is not None:
                    _set(config, name, value)
    return config


def fits_to_data(config: ml_collections.ConfigDict) -> bool:
    """Whether any field is left to the data."""
    return any(_is_open(config, name) for name in FIELDS)


def fit_image_size(
    config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Chooses the size of the images of a classifier where it is left to the data.

    It is the largest multiple of 32 that half of the images reach by their shorter side, and at
    most what the network was made for; an .npz file has its images in one size. `resize_size`
    follows, unless it is set.

    Args:
      config: The config, is left as it is.

    Returns:
      The config, and what to tell the user: nothing where nothing was left to the data.

    Raises:
      UserError: The data set cannot be found, or there is no such network.
    """
    if config.task != "classification" or not _is_open(config, "dataset.image_size"):
        return config, []
    fitted = config.copy_and_resolve_references()
    with fitted.unlocked():
        dataset = fitted.dataset
        dataset.image_size, why = _image_size(config)
        if dataset.resize_size == -1:
            dataset.resize_size = size_before_crop(dataset.image_size)
    return fitted, [
        f"Chosen: dataset.image_size={dataset.image_size}, {why}. It can be set instead, as"
        " --config.dataset.image_size=192."
    ]


def fit_to_data(
    config: ml_collections.ConfigDict, num_train_examples: int, num_devices: int
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Chooses what is left to the data, after the size of the images.

    Args:
      config: The config, is left as it is.
      num_train_examples: Images of the training split.
      num_devices: Devices to train on, all processes together.

    Returns:
      The config, and what to tell the user: the fields that were chosen, and whether the network
      starts from scratch.

    Raises:
      UserError: There are more devices than images, or the optimizer has no usual rate.
    """
    fitted = config.copy_and_resolve_references()
    with fitted.unlocked():
        if _is_open(fitted, "images_per_worker"):
            batch_size = _batch_size(
                num_train_examples, config.dataset.image_size, num_devices, config.num_workers
            )
            fitted.images_per_worker = batch_size // config.num_workers
        batch_size = fitted.num_workers * fitted.images_per_worker
        steps_per_epoch = max(num_train_examples // batch_size, 1)
        if _is_open(fitted, "num_steps"):
            fitted.num_steps = 0 if fitted.num_epochs > 0 else _num_steps(config, steps_per_epoch)
        num_steps = fitted.num_steps or max(1, round(fitted.num_epochs * steps_per_epoch))
        if _is_open(fitted, "schedule.warmup_epochs"):
            warmup_steps = min(round(_WARMUP_SHARE * num_steps), _WARMUP_STEPS)
            fitted.schedule.warmup_epochs = warmup_steps / steps_per_epoch
        if _is_open(fitted, "eval_every_epochs"):
            fitted.eval_every_epochs = max(
                1.0, math.ceil(num_steps / _EVALUATIONS / steps_per_epoch)
            )
        if _is_open(fitted, "optimizer.learning_rate"):
            _choose_rate(fitted, batch_size)
    names = [*FIELDS, "optimizer.rate_multipliers"]
    chosen = [
        f"{name}={_find(fitted, name)!r}"
        for name in names
        if _find(fitted, name) != _find(config, name)
    ]
    notes = []
    if chosen:
        notes.append(
            f"Chosen to fit {num_train_examples:,} training images: {', '.join(chosen)}."
            " Each can be set instead, as --config.images_per_worker=16."
        )
    if not config.get("init_from"):
        note = "No weights are named (config.init_from is empty): training from scratch"
        if num_train_examples < _FEW:
            note += f", for which {num_train_examples:,} images are few. See docs/finetuning.md"
        notes.append(f"{note}.")
    return fitted, notes


def _image_size(config: ml_collections.ConfigDict) -> tuple[int, str]:
    """Returns the size of the images in pixels, and why it is that."""
    dataset = config.dataset
    if dataset.source == "npz" and (stored := stored_image_size(dataset)):
        return stored, f"that of the images in '{dataset.path}'"
    native = native_image_size(config.model.name)
    made_for = f"for which {config.model.name} was made"
    sides = sample_shorter_sides(dataset) if dataset.source == "folder" else []
    if not sides:
        return native, f"{made_for}: the sizes of the images are not known"
    median = statistics.median_low(sides)
    seen = f"{len(sides)} images looked at have a median shorter side of {median} pixels"
    if median >= native:
        return native, f"{made_for}: {seen}"
    size = max(median // _STRIDE, 1) * _STRIDE
    if size < _SMALLEST_TUNED <= native and config.init_from:
        return _SMALLEST_TUNED, f"to which smaller images are enlarged from weights: {seen}"
    why = f"a multiple of {_STRIDE} pixels, of at most the {native} {made_for}"
    return size, f"{why}: {seen}"


def _batch_size(num_examples: int, image_size: int, num_devices: int, num_workers: int) -> int:
    """The largest power of two that fits, as a multiple of devices and workers.

    Memory grows with the pixels of an image, so a larger image makes a smaller batch.
    """
    if num_devices > num_examples:
        raise UserError(
            f"There are {num_devices} devices, but only {num_examples} training images; each device"
            " needs one. Make fewer devices visible, for example by CUDA_VISIBLE_DEVICES=0."
        )
    in_memory = _LARGEST_BATCH * min(1.0, (_PIXELS / image_size) ** 2)
    wanted = max(_SMALLEST_BATCH, min(in_memory, num_examples / _STEPS_PER_EPOCH))
    power = 2 ** int(math.log2(min(wanted, num_examples)))
    unit = math.lcm(num_devices, num_workers)
    return max(power // unit, 1) * unit


def _num_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
    if not config.get("init_from"):
        return max(_SCRATCH_STEPS, _SCRATCH_EPOCHS * steps_per_epoch)
    least, most = _TUNING_STEPS
    return min(max(least, _TUNING_EPOCHS * steps_per_epoch), most)


def _choose_rate(config: ml_collections.ConfigDict, batch_size: int) -> None:
    """Sets the learning rate and, from weights, that of the head."""
    optimizer = config.optimizer
    if optimizer.learning_rate_per_256 > 0:
        optimizer.learning_rate = 0.0
        return
    rates = _TUNING_RATES if config.init_from else _SCRATCH_RATES
    if optimizer.name not in rates:
        raise UserError(
            f"config.optimizer.learning_rate is -1, which chooses a rate for {', '.join(rates)},"
            f" not for {optimizer.name!r}: set learning_rate or learning_rate_per_256."
        )
    rate = rates[optimizer.name]
    if config.init_from:
        optimizer.rate_multipliers = tuple(optimizer.rate_multipliers) or _TUNING_MULTIPLIERS
    elif optimizer.name == "sgd":
        rate *= batch_size / 256
    optimizer.learning_rate = rate


def _is_open(config: ml_collections.ConfigDict, name: str) -> bool:
    return _find(config, name) == -1


def _find(config: Any, name: str) -> Any:
    """Returns the field of a dotted name; None where it is missing."""
    for part in name.split("."):
        if part not in config:
            return None
        config = config[part]
    return config


def _set(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    section, _, field = name.rpartition(".")
    node = config[section] if section else config
    node[field] = tuple(value) if isinstance(value, list) else value
