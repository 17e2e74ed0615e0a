"""A batch-size sweep as one object: every run of it, and mean and spread over the seeds.

It is read from the run directories, finished or not, or from the `results.csv` that was made of
them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evonorm_jax.analysis.runs import CONFIG_FILE, Run, layer_label, load_run, read_json
from evonorm_jax.analysis.style import sort_layers
from evonorm_jax.errors import UserError

RESULTS_FILE = "results.csv"


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep; one row of `results.csv`.

    Attributes:
      layer: registered name and fields, such as `gn_relu,group_size=8`.
      images_per_worker: images whose batch statistics are taken together.
      seed: of the run.
      steps: updates made so far.
      top1: final accuracy in percent; None while the run has not ended.
      loss: final cross-entropy in nats, likewise.
      examples: images that the final evaluation counted.
      train_seconds: time spent training, without compilation, evaluation and saving.
      date: of its last start, as are the next two; UTC, YYYY-MM-DD.
      commit: of the code.
      hardware: the devices, such as "8 x TPU v3"; the processors, where it ran on CPU.
    """

    layer: str
    images_per_worker: int
    seed: int
    steps: int = 0
    top1: float | None = None
    loss: float | None = None
    examples: int | None = None
    train_seconds: float | None = None
    date: str = ""
    commit: str = ""
    hardware: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of a sweep share.

    Attributes:
      dataset: its name.
      source: where it was read from; "fake" for made-up images.
      model: registered name and fields, such as `cifar_resnet20,depth=8`.
      num_workers: workers.
      num_epochs: passes over the training set.
    """

    dataset: str
    source: str
    model: str
    num_workers: int
    num_epochs: float


@dataclasses.dataclass(frozen=True)
class Statistic:
    """Accuracy of a layer at one size, over its seeds, in percent.

    Attributes:
      mean: over the finished runs; None if there are none.
      spread: sample standard deviation; None for fewer than two runs.
      finished: how many runs have ended.
      expected: how many seeds the sweep has.
    """

    mean: float | None
    spread: float | None
    finished: int
    expected: int

    @property
    def complete(self) -> bool:
        return self.finished == self.expected


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means, with its standard error (0 where a spread is unknown)."""

    value: float
    error: float | None

    @property
    def beyond_spread(self) -> bool | None:
        """Whether it is more than twice its standard error; None if that is unknown."""
        return None if self.error is None else abs(self.value) > 2 * self.error


class Sweep:
    """The runs of a batch-size sweep.

    Args:
      setting: what they share.
      runs: in any order.
      curves: the run directories behind them, where they were read from such.
    """

    def __init__(self, setting: Setting, runs: Sequence[SweepRun], curves: Sequence[Run] = ()):
        self.setting = setting
        self.layers = sort_layers({run.layer for run in runs})
        self.sizes = sorted({run.images_per_worker for run in runs}, reverse=True)
        self.seeds = sorted({run.seed for run in runs})
        order = self.layers.index
        self.runs = sorted(runs, key=lambda r: (order(r.layer), -r.images_per_worker, r.seed))
        self.curves = list(curves)

    def statistic(self, layer: str, images_per_worker: int) -> Statistic:
        """Mean and spread of one cell of the table."""
        values = self._values(layer, images_per_worker)
        return Statistic(
            mean=float(np.mean(values)) if values else None,
            spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            finished=len(values),
            expected=len(self.seeds),
        )

    def difference(
        self, minuend: tuple[str, int], subtrahend: tuple[str, int]
    ) -> Difference | None:
        """Mean of one (layer, size) less that of another; None if either has no finished run."""
        a, b = self.statistic(*minuend), self.statistic(*subtrahend)
        if a.mean is None or b.mean is None:
            return None
        error = None
        if a.spread is not None and b.spread is not None:
            error = float(np.sqrt(a.spread**2 / a.finished + b.spread**2 / b.finished))
        return Difference(a.mean - b.mean, error)

    def layer_label(self, layer: str) -> str:
        """The layer in prose; its fields only where the sweep has it with several."""
        name, _, fields = layer.partition(",")
        several = sum(other.partition(",")[0] == name for other in self.layers) > 1
        return layer_label(name) + (f" ({fields})" if several and fields else "")

    def find(self, name: str) -> str | None:
        """The layer of that registered name, if the sweep has exactly one."""
        found = [layer for layer in self.layers if layer.partition(",")[0] == name]
        return found[0] if len(found) == 1 else None

    @property
    def complete(self) -> bool:
        """Whether every layer has every seed at every size."""
        return all(
            self.statistic(layer, size).complete for layer in self.layers for size in self.sizes
        )

    def _values(self, layer: str, images_per_worker: int) -> list[float]:
        return [
            run.top1
            for run in self.runs
            if (run.layer, run.images_per_worker) == (layer, images_per_worker)
            and run.top1 is not None
        ]


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is no run itself but holds runs below it."""
    path = Path(path)
    return not (path / CONFIG_FILE).exists() and next(path.rglob(CONFIG_FILE), None) is not None


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Reads all runs below a folder, whatever state they are in.

    Raises:
      UserError: there are none, or they do not belong to one sweep.
    """
    folders = sorted(config.parent for config in Path(path).rglob(CONFIG_FILE))
    if not folders:
        raise UserError(f"'{path}' holds no runs; give the --workdir of experiments.sweep")
    runs, curves, settings = [], [], {}
    machines = {event["machine"] for event in read_history(Path(path)) if "machine" in event}
    machine = machines.pop() if len(machines) == 1 else ""
    for folder in folders:
        config = read_json(folder / CONFIG_FILE)
        settings.setdefault(_setting(config), folder)
        try:
            curve = load_run(folder)
        except UserError:  # started, nothing measured yet
            curve = None
        runs.append(_sweep_run(folder, config, curve, machine))
        if curve is not None:
            curves.append(curve)
    if len(settings) > 1:
        (one, first), (other, second), *_ = settings.items()
        raise UserError(
            f"'{path}' holds runs of different settings: {first} has {one}, {second} has {other}. "
            "Give the folder of one sweep."
        )
    return Sweep(next(iter(settings)), runs, curves)


def read_history(path: str | os.PathLike[str]) -> list[dict]:
    """The events of `sweep.jsonl`; none where the runs were started one by one."""
    file = Path(path) / "sweep.jsonl"
    if not file.exists():
        return []
    events = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # cut short by a kill
    return events


def run_layer(config: dict) -> str:
    """Registered name and fields of the layer of a run: `gn_relu,group_size=8`."""
    return _with_fields(config["model"]["norm_act"], config["model"].get("norm_act_fields", {}))


def write_results(sweep: Sweep, path: Path) -> None:
    """Writes one row for each run, with the setting in every row."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        names = [f.name for f in (*dataclasses.fields(Setting), *dataclasses.fields(SweepRun))]
        rows.writerow(names)
        for run in sweep.runs:
            row = (*dataclasses.astuple(sweep.setting), *dataclasses.astuple(run))
            rows.writerow("" if v is None else f"{v:.10g}" if type(v) is float else v for v in row)


def read_results(path: str | os.PathLike[str]) -> Sweep:
    """Reads what `write_results` wrote.

    Raises:
      UserError: the file is not there or not of that kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"'{path}' is not a file; give the {RESULTS_FILE} of a recorded sweep")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wanted = {f.name for f in (*dataclasses.fields(Setting), *dataclasses.fields(SweepRun))}
    if not rows or wanted - rows[0].keys():
        raise UserError(
            f"'{path}' is not the table of a sweep: its columns must be {', '.join(sorted(wanted))}"
        )
    first = rows[0]
    setting = Setting(
        first["dataset"],
        first["source"],
        first["model"],
        int(first["num_workers"]),
        float(first["num_epochs"]),
    )
    return Sweep(setting, [_from_row(row) for row in rows])


def _from_row(row: dict[str, str]) -> SweepRun:
    return SweepRun(
        layer=row["layer"],
        images_per_worker=int(row["images_per_worker"]),
        seed=int(row["seed"]),
        steps=int(row["steps"]),
        top1=float(row["top1"]) if row["top1"] else None,
        loss=float(row["loss"]) if row["loss"] else None,
        examples=int(row["examples"]) if row["examples"] else None,
        train_seconds=float(row["train_seconds"]) if row["train_seconds"] else None,
        date=row["date"],
        commit=row["commit"],
        hardware=row["hardware"],
    )


def _setting(config: dict) -> Setting:
    return Setting(
        dataset=config["dataset"]["name"],
        source=config["dataset"]["source"],
        model=_with_fields(config["model"]["name"], config["model"].get("fields", {})),
        num_workers=config["num_workers"],
        num_epochs=config["num_epochs"],
    )


def _sweep_run(folder: Path, config: dict, curve: Run | None, machine: str) -> SweepRun:
    metadata = folder / "metadata.json"
    last_start = read_json(metadata)["starts"][-1] if metadata.exists() else {}
    devices = last_start.get("devices", "")
    summary = (curve.summary if curve is not None else None) or {}
    top1 = summary.get("eval/top1")
    done = max((int(s[0][-1]) for s in curve.series.values()), default=0) if curve else 0
    return SweepRun(
        layer=run_layer(config),
        images_per_worker=config["images_per_worker"],
        seed=config["seed"],
        steps=summary.get("steps", done),
        top1=None if top1 is None else 100 * top1,
        loss=summary.get("eval/loss"),
        examples=summary.get("eval/examples"),
        train_seconds=summary.get("train_seconds"),
        date=last_start.get("time", "")[:10],
        commit=last_start.get("commit") or "",
        # "1 x cpu" says nothing of the machine; the sweep has noted its processors.
        hardware=machine if machine and devices.endswith(" cpu") else devices,
    )


def _with_fields(name: str, fields: dict) -> str:
    return ",".join([name, *(f"{field}={value}" for field, value in sorted(fields.items()))])
