"""The contract between the training loop and what it trains.

The loop, checkpoints, guard, progress, curves and sweeps know a task through `Task` alone. What
several tasks share, such as `steps.gradient_step` and `optimizer.create_optimizer`, is ordinary
code that a task may call or leave.

A task is made twice: with a layout of workers and durations, to train; and without them, to
evaluate what another process has trained. Then it needs no optimizer, and of its pipeline only the
evaluation split is there.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from evonorm_jax.data import Pipeline, create_pipeline
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.parallel import WorkerLayout

if TYPE_CHECKING:
    import ml_collections

    from evonorm_jax.training.saved_run import SavedRun
    from evonorm_jax.training.trained_run import TrainedRun

#: A PyTree with `.step` (int32 scalar, updates made), `.params` (whatever is trained) and
#: `.opt_state` (what training alone needs), such as `state.TrainState`. Checkpoints hold all of it.
State = Any


class Evaluated(NamedTuple):
    """What an evaluation step returns for one global batch, reduced over `parallel.AXIS`.

    Attributes:
      sums: Arrays that are added up over the batches, from `jax.lax.psum`.
      rows: Arrays `[global batch, ...]` that are kept row by row, from `parallel.gather_rows`. Rows
        whose entry in `mask` is 0 are dropped, and so is `mask` itself.
    """

    sums: Mapping[str, jax.Array]
    rows: Mapping[str, jax.Array] = {}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One way to evaluate a state.

    Attributes:
      step: `step(state, resident, batch) -> Evaluated`, a pure function of one device's share.
      summarize: `summarize(sums, rows) -> {name: number}` on the host, where every example counts
        exactly once: sums in float64 over all batches, rows of all batches one after the other.
        Every process gets the same and computes the same.
      batches: `batches(batch_size=..., hosts=...)` gives the batches of one pass, laid out as those
        of `Pipeline.eval_batches`, which is the default. An evaluation that samples has its own.
      prepare: `prepare(state, resident, batch) -> state` with the first batch, where an evaluation
        needs another state than training left; a pure function like `step`.
      num_examples: Examples of one pass over `batches`, for the progress line and to make the batch
        no larger; None where it is not known. Of the default it is known.
    """

    step: Callable[[State, Any, Any], Evaluated]
    summarize: Callable[[dict[str, Any], dict[str, np.ndarray]], dict[str, float]]
    batches: Callable[..., Iterator[Batch]] | None = None
    prepare: Callable[[State, Any, Any], State] | None = None
    num_examples: int | None = None


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What a run starts from instead of its seed.

    Attributes:
      variables: What `Task.draw_state` takes in place of drawn values.
      description: Says where they come from, for the log.
    """

    variables: Mapping[str, Any]
    description: str


class Task(abc.ABC):
    """What a run trains.

    Its config has the fields that the loop reads itself: those of workers, length, logging and
    checkpoints, `dataset`, `seed`, `dtype`, and the layer in `model.norm_act` and
    `model.norm_act_fields`. All others are the task's own.

    Args:
      config: The resolved config.
      pipeline: The data set. Before an evaluation only its attributes are read.
      layout: The workers on the devices; None in a task that only evaluates.
      durations: The length of the run in steps; None likewise.

    Raises:
      UserError: The config does not fit the data or the devices.
    """

    #: Advice for a run that stops being finite, whole sentences.
    remedy = "Try a lower learning rate or a longer config.schedule.warmup_epochs."

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        pipeline: Pipeline,
        layout: WorkerLayout | None = None,
        durations: Durations | None = None,
    ):
        self.config = config
        self.pipeline = pipeline
        self.layout = layout
        self.durations = durations

    @classmethod
    def check(cls, config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
        """Refuses what cannot be, before any data is read.

        Raises:
          UserError: Naming the field, its value and what it may be.
        """
        del config, layout  # every value is fine by default

    @classmethod
    def create_pipeline(
        cls, config: ml_collections.ConfigDict, *, evaluation_only: bool = False
    ) -> Pipeline:
        """Opens the data set of a config; by default images with one class each.

        Args:
          config: Its `dataset` and `seed` are read.
          evaluation_only: Whether the training split is left unread.

        Raises:
          UserError: Something is missing, or does not fit the configuration.
        """
        return create_pipeline(config.dataset, seed=config.seed, evaluation_only=evaluation_only)

    @classmethod
    def batches_per_step(cls, config: ml_collections.ConfigDict) -> int:
        """How many times the layout's images a step takes, all in its one batch.

        A step that splits its batch takes every n-th example of its share for each part, because
        parts cut in one piece would hold other examples on other numbers of devices.
        """
        return 1

    @property
    @abc.abstractmethod
    def metrics(self) -> RunMetrics:
        """What the metrics mean, which of them people see, and which one judges the run."""

    @property
    @abc.abstractmethod
    def peak_rates(self) -> dict[str, float]:
        """The highest learning rate of each optimizer, by the names that `rates` has."""

    @abc.abstractmethod
    def rates(self, step: int) -> dict[str, float]:
        """Returns the learning rates of the update after `step` updates, by what they are called.

        One optimizer has a `learning_rate`, several have one each, such as
        `generator_learning_rate`.
        """

    @abc.abstractmethod
    def draw_state(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> State:
        """Makes the state before the first step; traced, so that its shapes cost no computing.

        Args:
          seed: Seed of the run; it gives the same values on every process.
          weights: The variables of `initial_weights`, or `{}`.

        Returns:
          The state; with `opt_state` `()` in a task that only evaluates.
        """

    @abc.abstractmethod
    def train_step(
        self, state: State, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Makes one update: a pure function of one device's share, reduced over `parallel.AXIS`.

        Args:
          state: The state, the same on every device.
          resident: What `Pipeline.resident` returned.
          batch: This device's share of a training batch, leaves `[b, ...]`.
          key: Key of this step, from the seed and `state.step`; the same on every device. Fold
            `parallel.positions` in for what is random in an example, so that it is the same on any
            number of devices.

        Returns:
          The next state, and scalars to log, which stop the run when they are not finite.
        """

    @property
    @abc.abstractmethod
    def evaluations(self) -> Mapping[str, Evaluation]:
        """The evaluations by the part of their metrics' names, such as "eval".

        They give the main metric, among others.
        """

    @abc.abstractmethod
    def headline(self) -> str:
        """Says what is trained, such as `resnet50 with evonorm_s0`; the loop adds its size."""

    def initial_weights(self) -> InitialWeights | None:
        """Reads the weights that a new run starts from; None where it starts from its seed.

        Raises:
          UserError: There are none, or they do not fit.
        """
        if source := self.config.get("init_from"):
            raise UserError(
                f"config.init_from={source!r}: this task starts from its seed alone; leave the "
                "field empty."
            )
        return None

    def classes(self) -> dict[str, Any] | None:
        """Returns what `classes.json` says of classes and of how images are prepared, as JSON.

        None, the default, writes no such file.
        """
        return None

    @classmethod
    def trained_run(cls, saved: SavedRun) -> TrainedRun:
        """Makes a trained network ready to use, for `training.load_run`.

        Args:
          saved: What a run of this task has saved.

        Raises:
          UserError: The network cannot be used apart from its task, or something is missing.
        """
        raise UserError(
            f"{saved.source} is a run of the task {saved.config.task!r}, whose networks cannot be "
            "loaded: name a run of a task that finds something in images, such as classification."
        )

    def alarms(self, values: Mapping[str, float]) -> dict[str, str]:
        """Says what looks wrong in values that are finite; each symptom is reported once.

        Args:
          values: Means of the metrics of the steps since the last log, or what an evaluation gave.

        Returns:
          Messages by the symptom.
        """
        del values
        return {}  # nothing looks wrong by default

    def artifacts(self, step: int, state: State, resident: Any, workdir: Path) -> None:
        """Writes pictures and the like into the run directory, after every evaluation.

        It is called on every process; the first one writes. A run that was killed meanwhile calls
        it again, so files are named by the step.

        Args:
          step: Updates made.
          state: The state, replicated.
          resident: What `Pipeline.resident` returned, replicated.
          workdir: The run directory.
        """
        del step, state, resident, workdir  # there are no pictures by default


def means(sums: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Divides sums by the one named `count`: the usual `Evaluation.summarize`.

    >>> means({"loss": 8.0, "count": 4.0}, {})
    {'loss': 2.0, 'examples': 4}
    """
    del rows
    count = sums["count"]
    averages = {name: total / count for name, total in sums.items() if name != "count"}
    return {**averages, "examples": round(count)}
