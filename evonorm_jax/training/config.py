"""The fields of a config: what they may hold, and what an earlier config means that lacks some.

`configs/recipes.py` says what each field is for. The rules of `config.dataset` stand with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evonorm_jax.data.config import check_fields as check_dataset
from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import (
    Rule,
    block,
    check_fields,
    check_plain,
    chosen_if,
    flag,
    number,
    seed,
    several,
    text,
    whole,
)

if TYPE_CHECKING:
    import ml_collections


def _fitting(rule: Rule) -> Rule:
    """Allows -1 too, in the fields that `fit_to_data` chooses."""
    return chosen_if(rule, -1, "the data")


# Images, workers and micro-batches. A batch of a million images fits no machine.
_COUNT = whole(1, 2**20)
_SHARE = number(at_least=0, below=1)
_AMOUNT = number(at_least=0)

#: The rules of the fields that every run has, by their dotted names.
FIELDS = {
    "task": text(),
    "seed": seed(),
    "dtype": text(),
    "num_workers": _COUNT,
    "images_per_worker": _fitting(_COUNT),
    "eval_batch_size": _COUNT,
    "sync_batch_stats": flag(),
    "model": block(),
    "model.name": text(),
    "model.norm_act": text(),
    "model.norm_act_fields": block(),
    "model.fields": block(),
    "dataset": block(),
    "num_epochs": _AMOUNT,
    "num_steps": _fitting(whole(0)),
    "schedule": block(),
    "schedule.name": text(),
    "schedule.warmup_epochs": _fitting(_AMOUNT),
    "schedule.boundaries": several(number()),
    "schedule.decay_factor": number(above=0),
    "schedule.decay_epochs": _AMOUNT,
    "ema_decay": _SHARE,
    "log_every_steps": whole(1),
    "eval_every_epochs": _fitting(_AMOUNT),
    "checkpoint_every_steps": whole(1),
    "keep_checkpoints": whole(1),
    "keep_best_checkpoint": flag(),
    "early_stopping_patience": whole(0),
    "tensorboard": flag(),
    "metric_writers": several(text()),
    "profile_start_step": whole(0),
    "profile_steps": whole(0),
}

#: The rules of a section such as `config.optimizer`.
OPTIMIZER_FIELDS = {
    "name": text(),
    "learning_rate_per_256": _AMOUNT,
    "learning_rate": _fitting(_AMOUNT),
    "momentum": _SHARE,
    "nesterov": flag(),
    "weight_decay": _AMOUNT,
    "gradient_clip_norm": _AMOUNT,
    "rmsprop_decay": _SHARE,
    "rmsprop_epsilon": number(above=0),
    "lars_trust_coefficient": number(above=0),
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": number(above=0),
    "frozen_paths": several(text()),
    "rate_multipliers": several(text()),
    "layer_paths": several(text()),
    "layer_decay": number(above=0, at_most=1),
}

_ONE_NETWORK = {
    **{f"optimizer.{name}": rule for name, rule in OPTIMIZER_FIELDS.items()},
    "init_from": text(),
    "init_from_model": text(),
}

#: The rules of the further fields of each task.
TASK_FIELDS = {
    "classification": {
        **_ONE_NETWORK,
        "label_smoothing": _SHARE,
        "mixup_alpha": number(at_least=0, at_most=1000),  # weights of 1/2 alone long before that
        "cutmix_alpha": number(at_least=0, at_most=1000),
        "random_erasing": number(at_least=0, at_most=1),
        "class_weights": several(number(above=0)),
        "balanced_classes": flag(),
        "gradient_accumulation_steps": _COUNT,
    },
    "instance_segmentation": {**_ONE_NETWORK, "max_dets": several(whole())},
    "image_synthesis": {
        **{
            f"{player}_optimizer.{name}": rule
            for player in ("generator", "discriminator")
            for name, rule in OPTIMIZER_FIELDS.items()
        },
        "discriminator_steps": whole(1, 1000),
        "ema_start_steps": whole(0),
        "orthogonal_regularization": _AMOUNT,
        "standing_passes": whole(0, 10_000),  # the paper makes 100
        "standing_batch_size": whole(0, 2**20),
        "figures.network": text(),
        "figures.num_samples": whole(1, 10**7),
        "figures.reference": text(),
    },
}

#: The rules of fields of layers, where they are given. A layer itself knows which fields it has.
_LAYER_FIELDS = {
    "model.norm_act_fields.epsilon": _AMOUNT,
    "model.norm_act_fields.momentum": number(at_least=0, at_most=1),
}

#: Fields that a run sets itself, and what to choose in their place.
_SET_BY_THE_RUN = {
    "dtype": "choose config.dtype",
    "num_classes": "the data set has them (config.dataset.num_classes)",
    "norm_act": "choose config.model.norm_act",
    "norm_act_fields": "choose config.model.norm_act_fields",
    "name": "choose config.model.name",
    "parent": "leave it out",
}


#: Fields by their dotted names, with the values that runs had before there were such fields.
EARLIER_VALUES = {
    "task": "classification",
    "optimizer.learning_rate": 0.0,
    "optimizer.adam_beta1": 0.9,
    "optimizer.adam_beta2": 0.999,
    "optimizer.adam_epsilon": 1e-8,
    **{
        f"{section}.{field}": value
        for section in ("optimizer", "generator_optimizer", "discriminator_optimizer")
        for field, value in {
            "frozen_paths": (),
            "rate_multipliers": (),
            "layer_paths": (),
            "layer_decay": 1.0,
        }.items()
    },
    "dataset.eval_fraction": 0.2,
    "dataset.split_seed": 0,
    "dataset.train_crop": "random",
    "dataset.resize_method": "bicubic",
    "dataset.exif_orientation": False,
    "keep_best_checkpoint": False,
    "early_stopping_patience": 0,
    "metric_writers": (),
}

#: The same of classifiers alone.
EARLIER_CLASSIFIER_VALUES = {
    "cutmix_alpha": 0.0,
    "random_erasing": 0.0,
    "class_weights": (),
    "balanced_classes": False,
}


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config with all fields of today, a copy where some are missing.

    Fields of a section that the config does not have stay missing.

    >>> from ml_collections import ConfigDict
    >>> complete(ConfigDict({"seed": 3})).task
    'classification'
    """
    missing = {}
    classifier = config.get("task", "classification") == "classification"
    for name, value in (EARLIER_VALUES | (EARLIER_CLASSIFIER_VALUES if classifier else {})).items():
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


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a config with a field that is missing, of another type or out of its range.

    Fields without a rule, such as those of a task of your own, must be what JSON can hold, and
    finite.

    Raises:
      UserError: There is one; the message names the field, its value and its rule.
    """
    check_fields(config, FIELDS, "config")
    check_fields(config, TASK_FIELDS.get(config.task, {}), "config")
    check_fields(config, _LAYER_FIELDS, "config", required=False)
    check_plain(config, "config")
    for name in config.model.fields:
        if name in _SET_BY_THE_RUN:
            remedy = _SET_BY_THE_RUN[name]
            raise UserError(f"config.model.fields.{name} is set by the run itself: {remedy}.")
    if config.task == "instance_segmentation":
        # Here, because it needs ml_collections, and benchmarks run where that is missing.
        from evonorm_jax.data.instances.config import check_instance_fields

        check_instance_fields(config.dataset)
    elif config.task in TASK_FIELDS:
        check_dataset(config.dataset, may_fit_to_data=config.task == "classification")
