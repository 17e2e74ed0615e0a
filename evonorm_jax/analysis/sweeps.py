"""A sweep as one object: every run of it, and mean and spread over the seeds.

Beside layers and seeds a sweep varies one thing, its axis: images per worker, or training steps.

`sweep_files.py` reads it from the run directories, finished or not, and `sweep_results.py` from the
table that was made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evonorm_jax.analysis.runs import Run, layer_label
from evonorm_jax.analysis.style import sort_layers
from evonorm_jax.metrics import CLASSIFICATION, REAL_SUFFIX, RunMetrics


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep; one row of `results.csv`.

    Attributes:
      layer: Registered name and fields of the layer, such as `gn_relu,group_size=8`.
      images_per_worker: Images whose batch statistics are taken together.
      seed: Seed of the run.
      steps: Updates made so far.
      score: Final main metric in the unit that it is shown in, such as percent; None while the run
        has not ended.
      others: The final values of the other metrics that a report may need, as logged, by name.
      num_steps: Steps that the config asks for; 0 where it asks for epochs.
      examples: Examples that the final evaluation counted.
      train_loss: Mean loss of the training steps that were logged last; None while the run has not
        ended, or where it logs none.
      train_seconds: Seconds spent training, without compilation, evaluation and saving.
      date: Day of the last start, UTC, YYYY-MM-DD.
      commit: Commit of the code at that start.
      hardware: Devices at that start, such as "8 x TPU v3"; on CPU the processors.
    """

    layer: str
    images_per_worker: int
    seed: int
    steps: int = 0
    score: float | None = None
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_steps: int = 0
    examples: int | None = None
    train_loss: float | None = None
    train_seconds: float | None = None
    date: str = ""
    commit: str = ""
    hardware: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of a sweep share.

    Attributes:
      dataset: Name of the data set.
      source: Where it was read from; "fake" for made-up images.
      model: Registered name and fields of the network, such as `cifar_resnet20,depth=8`.
      num_workers: Number of workers; 0 where it differs, and `batch_size` is what they share.
      num_epochs: Passes over the training set; 0 where the runs count steps.
      batch_size: Images of a step, over all workers, where `num_workers` is 0; else 0.
    """

    dataset: str
    source: str
    model: str
    num_workers: int
    num_epochs: float
    batch_size: int = 0


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a sweep varies beside layers and seeds.

    Attributes:
      field: Field of the config and of `SweepRun`.
      label: Name in prose, with the value before it, such as "images per worker".
    """

    field: str
    label: str


IMAGES_PER_WORKER = Axis("images_per_worker", "images per worker")
NUM_STEPS = Axis("num_steps", "training steps")


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A metric of a layer at one size, over its seeds.

    Attributes:
      mean: Mean over the finished runs; None if there are none.
      spread: Sample standard deviation; None for fewer than two runs.
      finished: Number of runs that have ended.
      expected: Number of seeds that the sweep has.
    """

    mean: float | None
    spread: float | None
    finished: int
    expected: int

    @property
    def complete(self) -> bool:
        """Whether all runs have ended."""
        return self.finished == self.expected


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means, with its standard error; None where a spread is unknown."""

    value: float
    error: float | None

    @property
    def beyond_spread(self) -> bool | None:
        """Whether it is more than twice its standard error; None if that is unknown."""
        return None if self.error is None else abs(self.value) > 2 * self.error


class Sweep:
    """The runs of a sweep.

    A size is a value of its axis: of images per worker, unless the steps differ between the runs.

    Args:
      setting: What the runs share.
      runs: The runs, in any order.
      metrics: What their metrics mean.
      curves: The run directories behind them, where they were read from such.
    """

    def __init__(
        self,
        setting: Setting,
        runs: Sequence[SweepRun],
        metrics: RunMetrics = CLASSIFICATION,
        curves: Sequence[Run] = (),
    ):
        self.setting = setting
        self.metrics = metrics
        self.layers = sort_layers({run.layer for run in runs})
        lengths = {run.num_steps for run in runs}
        self.axis = NUM_STEPS if len(lengths) > 1 else IMAGES_PER_WORKER
        self.sizes = sorted(set(map(self.size, runs)), reverse=True)
        self.seeds = sorted({run.seed for run in runs})
        order = self.layers.index
        self.runs = sorted(runs, key=lambda r: (order(r.layer), -self.size(r), r.seed))
        self.curves = list(curves)

    def size(self, run: SweepRun) -> int:
        """Returns the value of the axis that a run has."""
        return int(getattr(run, self.axis.field))

    @property
    def has_papers_metric(self) -> bool:
        """Whether the main metric is that of the paper's tables, top-1 accuracy."""
        return self.metrics.main == CLASSIFICATION.main

    def statistic(self, layer: str, size: int, name: str = "") -> Statistic:
        """Computes mean and spread of one cell of a table.

        Args:
          layer: Layer of the cell.
          size: Value of the axis.
          name: Metric without its part; the main metric by default.
        """
        return self._statistic(self.values(layer, size, name))

    def train_loss(self, layer: str, size: int) -> Statistic:
        """Computes mean and spread of the last training loss of a layer at one size."""
        losses = (run.train_loss for run in self._runs_of(layer, size))
        return self._statistic([loss for loss in losses if loss is not None])

    def difference(
        self, minuend: tuple[str, int], subtrahend: tuple[str, int]
    ) -> Difference | None:
        """Subtracts the means of two (layer, size); None if either has no finished run."""
        a, b = self.statistic(*minuend), self.statistic(*subtrahend)
        if a.mean is None or b.mean is None:
            return None
        error = None
        if a.spread is not None and b.spread is not None:
            error = float(np.sqrt(a.spread**2 / a.finished + b.spread**2 / b.finished))
        return Difference(a.mean - b.mean, error)

    def layer_label(self, layer: str) -> str:
        """Returns the layer in prose, with its fields only where the sweep has it with several."""
        name, _, fields = layer.partition(",")
        several = sum(other.partition(",")[0] == name for other in self.layers) > 1
        return layer_label(name) + (f" ({fields})" if several and fields else "")

    def find(self, name: str) -> str | None:
        """Returns the layer of a registered name, if the sweep has exactly one."""
        found = [layer for layer in self.layers if layer.partition(",")[0] == name]
        return found[0] if len(found) == 1 else None

    @property
    def complete(self) -> bool:
        """Whether every layer has every seed at every size."""
        return all(
            self.statistic(layer, size).complete for layer in self.layers for size in self.sizes
        )

    @property
    def tabled(self) -> tuple[str, ...]:
        """The metrics of the table of further metrics, those that any run has measured."""
        return tuple(
            name
            for name in self.metrics.tabled
            if any(self._value(run, name) is not None for run in self.runs)
        )

    def values_of_real_data(self, name: str) -> list[float]:
        """Returns what real data reach in a metric, by every run that says so, in its unit."""
        factor = self.metrics.find(name).factor
        real = (run.others.get(f"{name}{REAL_SUFFIX}") for run in self.runs)
        return [factor * value for value in real if value is not None]

    def values(self, layer: str, size: int, name: str = "") -> list[float]:
        """Returns what `statistic` is of: the final values by seed, of the runs that have them."""
        name = name or self.metrics.main_name
        values = (self._value(run, name) for run in self._runs_of(layer, size))
        return [value for value in values if value is not None]

    def _runs_of(self, layer: str, size: int) -> list[SweepRun]:
        return [run for run in self.runs if (run.layer, self.size(run)) == (layer, size)]

    def _statistic(self, values: list[float]) -> Statistic:
        return Statistic(
            mean=float(np.mean(values)) if values else None,
            spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            finished=len(values),
            expected=len(self.seeds),
        )

    def _value(self, run: SweepRun, name: str) -> float | None:
        """Returns the final value of a run in the unit that it is shown in."""
        if name == self.metrics.main_name:
            return run.score
        value = run.others.get(name)
        return None if value is None else self.metrics.find(name).factor * value
