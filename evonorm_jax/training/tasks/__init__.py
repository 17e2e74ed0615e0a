"""What the loop can train: the table of tasks, each of them imported when it is asked for.

base.py                   the contract between the loop and a task
supervised.py             what tasks share that train one network on labelled examples
classification.py         images into classes
image_synthesis.py        noise and a class into images
instance_segmentation.py  objects in images: boxes, classes and masks
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.training.own_code import import_named
from evonorm_jax.training.tasks.base import (
    Evaluated,
    Evaluation,
    InitialWeights,
    State,
    Task,
    means,
)

if TYPE_CHECKING:
    import ml_collections

__all__ = [
    "TASKS",
    "Evaluated",
    "Evaluation",
    "InitialWeights",
    "State",
    "Task",
    "find_task",
    "means",
]

#: The class of each task, by the name that `config.task` has.
TASKS = {
    "classification": "evonorm_jax.training.tasks.classification:Classification",
    "image_synthesis": "evonorm_jax.training.tasks.image_synthesis:ImageSynthesis",
    "instance_segmentation": (
        "evonorm_jax.training.tasks.instance_segmentation:InstanceSegmentation"
    ),
}


def find_task(config: ml_collections.ConfigDict) -> type[Task]:
    """Imports the task of a config.

    Raises:
      UserError: There is none of that name. Beside the names of `TASKS`, a class of your own may
        be named as `package.module:Class`.
    """
    name = config.task
    try:
        found = import_named(TASKS.get(name, name))
    except ValueError:
        raise UserError(
            f"config.task={name!r} is unknown.{did_you_mean(name, TASKS)} Choose one of "
            f"{', '.join(TASKS)}, or name a class of your own as 'package.module:Class'."
        ) from None
    except (ImportError, AttributeError) as error:
        if name in TASKS:
            raise
        raise UserError(f"config.task={name!r} cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"config.task={name!r} is no class of evonorm_jax.training.tasks.Task.")
    return found
