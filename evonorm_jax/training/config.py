"""What a config means that was written before some field existed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ml_collections


#: Fields by their dotted names, with the values that runs had before there were such fields.
EARLIER_VALUES = {
    "task": "classification",
    "optimizer.learning_rate": 0.0,
    "optimizer.adam_beta1": 0.9,
    "optimizer.adam_beta2": 0.999,
    "optimizer.adam_epsilon": 1e-8,
    "dataset.eval_fraction": 0.2,
    "dataset.split_seed": 0,
    "dataset.train_crop": "random",
    "dataset.resize_method": "bicubic",
    "dataset.exif_orientation": False,
}


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config with all fields of today, a copy where some are missing.

    Fields of a section that the config does not have stay missing.

    >>> from ml_collections import ConfigDict
    >>> complete(ConfigDict({"seed": 3})).task
    'classification'
    """
    missing = {}
    for name, value in EARLIER_VALUES.items():
        section, _, field = name.rpartition(".")
        node = config.get(section) if section else config
        if node is not None and field not in node:
            missing[name] = value
    if not missing:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name, value in missing.items():
            section, _, field = name.rpartition(".")
            (config[section] if section else config)[field] = value
    return config
