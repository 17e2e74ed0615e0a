"""Every field of a config has a rule, and what breaks one is a message that names the field."""

import pytest
from ml_collections import ConfigDict

from configs import detection_recipes, recipes, synthesis_recipes
from evonorm_jax.errors import UserError
from evonorm_jax.training.config import FIELDS, TASK_FIELDS, check_config

BASES = {
    "classification": lambda: recipes.digits("evonorm_s0"),
    "instance_segmentation": lambda: detection_recipes.digit_scenes("bn_relu"),
    "image_synthesis": lambda: synthesis_recipes.biggan_deep_digits("bn_relu"),
}
OPEN = ("dataset", "model.norm_act_fields", "model.fields")

pytestmark = pytest.mark.hostile


def names_of(block, prefix=""):
    """Dotted names of all fields; what is open has rules of its own."""
    for name, value in block.items():
        if f"{prefix}{name}" not in OPEN and isinstance(value, ConfigDict):
            yield from names_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def changed(task, fields):
    """The config of a task with other values; a value may be a block, and of any type."""
    plain = BASES[task]().to_dict()
    for name, value in fields.items():
        *parents, field = name.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[field]
        else:
            node[field] = value
    return ConfigDict(plain)


@pytest.mark.parametrize("task", BASES)
def test_every_field_has_a_rule(task):
    config = BASES[task]()
    check_config(config)
    rules = FIELDS | TASK_FIELDS[task]
    blocks = {"model", "schedule"}
    assert set(names_of(config)) == rules.keys() - blocks


@pytest.mark.parametrize("task", BASES)
@pytest.mark.parametrize("value", [None, "x", 3, 2.5, [], {}, (1, "x"), float("nan"), -1, object()])
def test_a_value_of_any_kind_is_taken_or_refused_by_name(task, value):
    """Each field in turn: nothing else than a message comes of it."""
    refused = {}
    for name in names_of(BASES[task]()):
        try:
            check_config(changed(task, {name: value}))
        except UserError as error:
            refused[name] = str(error)
    assert len(refused) > 10
    assert [name for name, message in refused.items() if name not in message] in ([], ["task"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate=inf; it must be a f"),
        ({"optimizer.learning_rate_per_256": -0.1}, "per_256=-0.1; it must be at least 0."),
        ({"optimizer.momentum": 2.0}, "momentum=2.0; it must be at least 0 and below 1."),
        ({"optimizer.weight_decay": -1.0}, "weight_decay=-1.0; it must be at least 0."),
        ({"optimizer.gradient_clip_norm": -1.0}, "gradient_clip_norm=-1.0; it must be at least 0"),
        ({"mixup_alpha": float("inf")}, "config.mixup_alpha=inf; it must be a finite number"),
        ({"dataset.std": (float("inf"),)}, "config.dataset.std[0]=inf; it must be a finite number"),
        ({"dataset.mean": ("a",)}, "config.dataset.mean=('a',); it must be a tuple, each item a f"),
        ({"dataset.mean": (), "dataset.std": ()}, "config.dataset.mean is (), but must be 1 value"),
        ({"dataset.image_size": "8"}, "config.dataset.image_size='8'; it must be a whole number"),
        ({"dataset.pad": ...}, "config.dataset has no field 'pad'"),
        ({"model.norm_act_fields.epsilon": float("inf")}, "norm_act_fields.epsilon=inf; it must"),
        ({"model.norm_act_fields.epsilon": -1.0}, "norm_act_fields.epsilon=-1.0; it must be at l"),
        ({"model.norm_act_fields.scale": float("nan")}, "norm_act_fields.scale=nan; it must be a"),
        ({"eval_batch_size": 10**12}, "it must be at least 1 and at most 1,048,576."),
        ({"seed": -1}, "config.seed=-1; it must be at least 0"),
        ({"optimizer": 3}, "config.optimizer=3; it must be a block of fields."),
        ({"optimizer": {"name": "sgd"}}, "config.optimizer has no field 'learning_rate_per_256'"),
        ({"model": "resnet50"}, "config.model='resnet50'; it must be a block of fields."),
        ({"schedule": ...}, "config has no field 'schedule'"),
        ({"task": ...}, "config has no field 'task'"),
        ({"schedule.boundaries": ("a", 1)}, "it must be a tuple, each item a finite number."),
        ({"model.fields.dtype": "bfloat16"}, "is set by the run itself: choose config.dtype."),
        ({"model.fields.num_classes": 3}, "config.model.fields.num_classes is set by the run"),
        ({"model.fields.norm_act": "frn"}, "choose config.model.norm_act."),
        ({"model.fields.name": "x"}, "choose config.model.name."),
        ({"model.fields.rate": 1e999}, "config.model.fields.rate=inf; it must be a finite number."),
        ({"own_field": {1, 2}}, "or a block of these, not set."),
    ],
)
def test_what_cannot_be(fields, message):
    with pytest.raises(UserError) as caught:
        check_config(changed("classification", fields))
    assert message in str(caught.value)


def test_a_task_of_ones_own_has_fields_of_its_own():
    config = changed("classification", {"task": "package.module:Class", "depth": {"levels": 3.0}})
    for name in ("optimizer", "label_smoothing", "dataset.std"):
        *parents, field = name.split(".")
        del (config[parents[0]] if parents else config)[field]
    check_config(config)
    config.depth.levels = float("inf")
    with pytest.raises(UserError, match=r"config\.depth\.levels=inf"):
        check_config(config)
