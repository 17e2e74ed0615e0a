"""A trained network in use: `load_run`, and what the networks of all tasks have in common."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.training.saved_run import SavedRun, read_saved_run

if TYPE_CHECKING:
    import ml_collections
    from flax import linen as nn


class TrainedRun(abc.ABC):
    """A trained network with all that is needed to use it.

    Attributes:
      source: Where it was read from.
      step: Updates made.
      config: The run's config.
      model: The network.
      variables: Its variables by the names of their collections: the moving averages where the run
        kept them, unless `load_run` was asked for the newest weights.
      class_names: Name of each class; its number where the data set has no names.
    """

    class_names: tuple[str, ...]
    model: nn.Module

    def __init__(self, saved: SavedRun):
        self.source: str = saved.source
        self.step: int = saved.step
        self.config: ml_collections.ConfigDict = saved.config
        self.variables: dict[str, Any] = saved.variables

    @abc.abstractmethod
    def predict(self, images: Any) -> Any:
        """Says what is in images."""


def load_run(
    path: str | Path, step: int | None = None, *, newest_weights: bool = False
) -> TrainedRun:
    """Loads a trained network, ready to use; the data set and TensorFlow are not needed.

    For example::

        run = evonorm_jax.load_run("runs/digits_resnet_evonorm_s0")
        found = run.predict(["three.png", "seven.png"])
        print(found.top_names[0][0], found.top_probabilities[0, 0])

    Args:
      path: Run directory of `experiments.train`; nothing in it is changed.
      step: Step of the checkpoint; the newest by default.
      newest_weights: Whether to take the newest weights although the run kept moving averages.

    Returns:
      A `TrainedClassifier` for a run of classification; other tasks have their own kinds of
      `TrainedRun`.

    Raises:
      UserError: It is no run, it has no such checkpoint, or its task has nothing to load.
    """
    # Here, because the tasks import this module's class.
    from evonorm_jax.training.tasks import find_task

    saved = read_saved_run(path, step, newest_weights=newest_weights)
    return find_task(saved.config).trained_run(saved)
