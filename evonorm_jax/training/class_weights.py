"""How much each class weighs in the loss of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evonorm_jax.data import Pipeline
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def check_class_weights(config: ml_collections.ConfigDict) -> None:
    """Refuses weights together with balancing, before any data is read.

    Raises:
      UserError: There are both.
    """
    if config.class_weights and config.balanced_classes:
        raise UserError(
            "config.class_weights and config.balanced_classes=True exclude each other: leave the "
            "weights empty, or set balanced_classes=False."
        )


def find_class_weights(config: ml_collections.ConfigDict, pipeline: Pipeline) -> np.ndarray | None:
    """Returns the weights `[K]` of the classes in the loss, float32; None where all are alike.

    Balanced weights are `N / (K * N_k)`: each class as a whole weighs the same, and the mean weight
    of an example is 1.

    Args:
      config: Its `class_weights` and `balanced_classes` are read.
      pipeline: The data set.

    Raises:
      UserError: The weights are not one for each class, the classes of the training split are not
        known, or one has no example.
    """
    count = pipeline.num_classes
    if config.class_weights:
        if len(config.class_weights) != count:
            raise UserError(
                f"config.class_weights has {len(config.class_weights)} values, but "
                f"{config.dataset.name} has {count} classes: give one for each."
            )
        return np.array(config.class_weights, np.float32)
    if not config.balanced_classes:
        return None
    if pipeline.train_labels is None:
        raise UserError(
            f"config.balanced_classes=True: the classes of {config.dataset.name} are known only by "
            "reading all of its records. Set config.class_weights instead."
        )
    examples = np.bincount(pipeline.train_labels, minlength=count)
    if not examples.all():
        raise UserError(
            f"config.balanced_classes=True: class {np.argmin(examples)} has no training image, so "
            "it has no weight. Set config.class_weights instead, or add images."
        )
    return (examples.sum() / (count * examples)).astype(np.float32)
