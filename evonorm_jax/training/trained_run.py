"""A trained network in use: `load_run`, and what the networks of all tasks have in common."""

from __future__ import annotations

import abc
import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.training.saved_run import SavedRun, read_saved_run

if TYPE_CHECKING:
    import ml_collections
    from flax import linen as nn
    from PIL import Image


class FilePrediction(NamedTuple):
    """What was found in one image, in the forms that `experiments.predict` writes.

    Attributes:
      path: The image.
      rows: Lines of a table, values by column; every row has the same columns, `file` the first.
      records: Makes objects for JSON.
      picture: Draws what was found into the image; None for runs that draw nothing.
    """

    path: str
    rows: list[dict[str, Any]]
    records: Callable[[], list[dict[str, Any]]]
    picture: Callable[[], Image.Image] | None = None


class TrainedRun(abc.ABC):
    """A trained network with all that is needed to use it.

    Attributes:
      options: Names of the options of `predict_files` beside those that all runs have.
      batch_size: Number of images that `predict_files` takes at a time by default.
      draws: Whether `predict_files` gives pictures.
      source: Where it was read from.
      step: Updates made.
      config: The run's config.
      model: The network.
      variables: Its variables by the names of their collections: the moving averages where the run
        kept them, unless `load_run` was asked for the newest weights.
      class_names: Name of each class; its number where the data set has no names.
    """

    options: ClassVar[tuple[str, ...]] = ()
    batch_size: ClassVar[int] = 32
    draws: ClassVar[bool] = False
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

    @property
    @abc.abstractmethod
    def program_inputs(self) -> dict[str, tuple[tuple[int, ...], str | None]]:
        """Shape, without the batch axis, and dtype of what `program` takes.

        The dtype is None for images, whose dtype is chosen when the program is exported.
        """

    @abc.abstractmethod
    def program(self, *inputs: jax.Array) -> dict[str, jax.Array]:
        """Computes what `export.export_program` exports: a pure function, the weights inside."""

    @abc.abstractmethod
    def classes(self) -> dict[str, Any]:
        """Returns what `classes.json` of the run says."""

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
        batch_size: int | None = None,
        **options: Any,
    ) -> Iterator[FilePrediction]:
        """Says what is in image files, with no more than a batch of them in memory.

        Args:
          paths: The files.
          unreadable: Is called with the message about each file that cannot be read.
          batch_size: Number of images at a time; the run's own number by default.
          **options: Values of some of `options`.
        """
        batch_size = batch_size or self.batch_size
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
      path: Run directory of `experiments.train`, in which nothing is changed; or a `.safetensors`
        file of `experiments.export`.
      step: Step of the checkpoint; the newest by default.
      newest_weights: Whether to take the newest weights although the run kept moving averages.

    Returns:
      A `TrainedClassifier` for a run of classification, a `TrainedDetector` for one of instance
      segmentation.

    Raises:
      UserError: It is no run, it has no such checkpoint, or its task has nothing to load.
    """
    # Here, because the tasks import this module's class.
    from evonorm_jax.training.tasks import find_task

    saved = read_saved_run(path, step, newest_weights=newest_weights)
    return find_task(saved.config).trained_run(saved)
