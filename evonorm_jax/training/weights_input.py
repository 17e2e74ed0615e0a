"""Images as published weights want them: mean, std and, in evaluation, their size and crop."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from evonorm_jax.data.config import dataset_fields
from evonorm_jax.interop.pretrained import (
    PRETRAINED,
    PretrainedWeights,
    name_of_file,
    weights_of,
)

if TYPE_CHECKING:
    import ml_collections


def initial_weights_name(config: ml_collections.ConfigDict) -> str:
    """Returns timm's name of the weights in `config.init_from`, "" for a run or for none.

    It is `config.init_from_model`, or else what the file is called. A task that starts from no
    weights, such as image synthesis, has neither field.
    """
    return config.get("init_from_model") or name_of_file(config.get("init_from", ""))


def scale_as_weights(
    config: ml_collections.ConfigDict, typed: Collection[str] = ()
) -> ml_collections.ConfigDict:
    """Gives a run that starts from published weights the mean and std of their images.

    The values of a config give way where they are nobody's choice for this run: those that the data
    set has by default, and those of other weights. Others stay, as do the ones in `typed`. The size
    of the images stays as well: fine-tuning at another one is usual.

    Args:
      config: Config of a run.
      typed: Names of fields that a person has set on the command line, such as "dataset.mean".

    Returns:
      A copy where something changes, otherwise the config.
    """
    weights = weights_of(initial_weights_name(config))
    if weights is None or not _is_color(config) or {"dataset.mean", "dataset.std"} & {*typed}:
        return config
    if has_scale_of(config, weights) or _scale(config.dataset) not in _given_scales(config):
        return config
    return _with_dataset(config, mean=weights.mean, std=weights.std)


def has_scale_of(config: ml_collections.ConfigDict, weights: PretrainedWeights) -> bool:
    """Whether the images of a config are scaled by the mean and std of the weights."""
    return _scale(config.dataset) == (weights.mean, weights.std)


def describe_scale(config: ml_collections.ConfigDict, name: str) -> str:
    """Says whether a run scales its images as published weights want them; "" where none are known.

    Args:
      config: Config of the run.
      name: Name of the weights in timm.
    """
    weights = weights_of(name)
    if weights is None or not _is_color(config):
        return ""
    if has_scale_of(config, weights):
        return " Images have the mean and std of these weights."
    return (
        f" They were trained with mean {_short(weights.mean)} and std {_short(weights.std)}, but "
        f"this run has config.dataset.mean {_short(config.dataset.mean)} and std "
        f"{_short(config.dataset.std)}."
    )


def evaluate_as_weights(
    config: ml_collections.ConfigDict, name: str, typed: Collection[str] = ()
) -> ml_collections.ConfigDict:
    """Gives an evaluation of published weights the images that timm evaluates them on.

    Mean and std are set, and for images that are cut out of photographs their size and crop too.

    Args:
      config: Config whose data set is evaluated.
      name: Name of the weights in timm.
      typed: Names of fields that a person has set on the command line; these stay.

    Returns:
      A copy where something changes, otherwise the config.
    """
    weights = weights_of(name)
    if weights is None or not _is_color(config):
        return config
    fields: dict[str, object] = {"mean": weights.mean, "std": weights.std}
    if _cuts_photographs(config.dataset):
        fields |= {"image_size": weights.test_size, "resize_size": weights.test_resize_size}
        if "dataset.image_size" in typed:  # a crop for another size would be none
            fields.pop("resize_size")
    fields = {field: value for field, value in fields.items() if f"dataset.{field}" not in typed}
    if all(config.dataset[field] == value for field, value in fields.items()):
        return config
    return _with_dataset(config, **fields)


def describe_images(config: ml_collections.ConfigDict) -> str:
    """Says which images an evaluation sees.

    >>> from evonorm_jax.data import dataset_config
    >>> from ml_collections import ConfigDict
    >>> describe_images(ConfigDict({"dataset": dataset_config("imagenet2012", "tfds")}))
    '224 pixels, cut from 256, mean 123.675, 116.28, 103.53, std 58.395, 57.12, 57.375'
    """
    dataset = config.dataset
    cut = f", cut from {dataset.resize_size or dataset.image_size}"
    return (
        f"{dataset.image_size} pixels{cut if _cuts_photographs(dataset) else ''}, "
        f"mean {_short(dataset.mean)}, std {_short(dataset.std)}"
    )


def _is_color(config: ml_collections.ConfigDict) -> bool:
    return len(config.dataset.get("mean", ())) == 3


def _cuts_photographs(dataset: ml_collections.ConfigDict) -> bool:
    """Whether images are read from files and cut, rather than stored in the size they are used."""
    return dataset.source == "folder" or (dataset.source == "tfds" and not dataset.in_memory)


def _scale(dataset: ml_collections.ConfigDict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(dataset.mean), tuple(dataset.std)


def _given_scales(
    config: ml_collections.ConfigDict,
) -> set[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Returns the pairs of mean and std that stand in configs without a person's choice."""
    scales: set[tuple[tuple[float, ...], tuple[float, ...]]] = {
        (weights.mean, weights.std) for weights in PRETRAINED.values()
    }
    if config.task == "classification":
        default = dataset_fields(config.dataset.name, config.dataset.source)
        scales.add((default["mean"], default["std"]))
    return scales


def _with_dataset(config: ml_collections.ConfigDict, **fields: object) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.dataset.update(fields)
    return config


def _short(values: Collection[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
