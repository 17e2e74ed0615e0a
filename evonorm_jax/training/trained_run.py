"""A trained network in use: `load_run`, and what the networks of all tasks have in common."""

from __future__ import annotations

import abc
import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from evonorm_jax.errors import UserError
from evonorm_jax.training.saved_run import SavedRun, read_saved_run

if TYPE_CHECKING:
    import ml_collections
    from flax import linen as nn


class FilePrediction(NamedTuple):
    """What was found in one image, in the forms that `experiments.predict` writes.

    Attributes:
      path: The image.
      rows: Lines of a table, values by column; every row has the same columns, `file` the first.
      records: Objects for JSON.
    """

    path: str
    rows: list[dict[str, Any]]
    records: list[dict[str, Any]]


class TrainedRun(abc.ABC):
    """A trained network with all that is needed to use it.

    Attributes:
      options: Names of the options of `predict_files` beside those that all runs have.
      source: Where it was read from.
      step: Updates made.
      config: The run's config.
      model: The network.
      variables: Its variables by the names of their collections: the moving averages where the run
        kept them, unless `load_run` was asked for the newest weights.
      class_names: Name of each class; its number where the data set has no names.
    """

    options: ClassVar[tuple[str, ...]] = ()
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

    @abc.abstractmethod
    def read(self, image: Any) -> Any:
        """Reads one image, prepared for the network but not yet normalised.

        Raises:
          UserError: It cannot be read; the message names it.
        """

    @abc.abstractmethod
    def describe(
        self, paths: Sequence[str], numbers: Sequence[int], images: list[Any], **options: Any
    ) -> Iterator[FilePrediction]:
        """Says what is in a batch of images that `read` has read.

        Args:
          paths: Where they come from.
          numbers: Their places in the list of all images, from 1.
          images: What `read` returned.
          **options: Values of some of `options`.
        """

    def predict_files(
        self,
        paths: Sequence[str],
        *,
        unreadable: Callable[[UserError], None],
        batch_size: int = 32,
        **options: Any,
    ) -> Iterator[FilePrediction]:
        """Says what is in image files, with no more than a batch of them in memory.

        Args:
          paths: The files.
          unreadable: Is called with the message about each file that cannot be read.
          batch_size: Number of images at a time.
          **options: Values of some of `options`.
        """
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(paths), batch_size):
                part = paths[first : first + batch_size]
                read: dict[int, Any] = {}
                for i, result in enumerate(pool.map(self._try_read, part)):
                    if isinstance(result, UserError):
                        unreadable(result)
                    else:
                        read[i] = result
                if read:
                    numbers = [first + i + 1 for i in read]
                    named = [part[i] for i in read]
                    yield from self.describe(named, numbers, list(read.values()), **options)

    def _try_read(self, path: str) -> Any:
        try:
            return self.read(path)
        except UserError as error:
            return error


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
