"""A run directory as one object: what was asked for, what was measured, how it ended."""

import array
import dataclasses
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonorm_jax.analysis.labels import network_label
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics, metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    METADATA_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    is_number,
    read_events,
    read_json,
    read_summary,
)

_EVENT_KEYS = ("step", "epoch", "time")  # every event has these; all else is a metric

# How a word of a registered name is written in prose; other words keep their registered form.
_SPELLING = {
    "bn": "BN",
    "cifar": "CIFAR",
    "evonorm": "EvoNorm",
    "frn": "FRN",
    "gn": "GN",
    "in": "IN",
    "ln": "LN",
    "pixelnorm": "PixelNorm",
    "rej": "rej",
    "relu": "ReLU",
    "rs": "RS",
    "silu": "SiLU",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory, finished or still going.

    Attributes:
      path: The directory.
      config: The resolved configuration, as nested dictionaries.
      metrics: What the metrics mean, and which one judges the run.
      series: By metric, three arrays of equal length, sorted by step: step (int64), epoch
        (float64) and value (float64).
      summary: The final numbers, or None if the run has not ended.
    """

    path: Path
    config: Mapping[str, Any]
    metrics: RunMetrics
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    summary: Mapping[str, Any] | None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The full names of all metrics, sorted."""
        return tuple(sorted(self.series))

    @property
    def model(self) -> str:
        """The registered name of the network."""
        return str(self.config["model"]["name"])

    @property
    def norm_act(self) -> str:
        """The layer in prose, such as `EvoNorm-S0` for `evonorm_s0`."""
        return layer_label(str(self.config["model"]["norm_act"]))


def layer_label(name: str) -> str:
    """Writes the registered name of a layer as the literature does; of a searched layer its label.

    >>> layer_label("evonorm_s0"), layer_label("bn_relu"), layer_label("pixel_norm_relu")
    ('EvoNorm-S0', 'BN-ReLU', 'PixelNorm-ReLU')
    >>> layer_label("graph:winner: n4 = sigmoid(x); n5 = mul(x, n4)")
    'winner'
    """
    if name.startswith("graph:"):
        return name.removeprefix("graph:").partition(": ")[0]
    words = name.replace("pixel_norm", "pixelnorm").split("_")
    return "-".join(_SPELLING.get(word, word.capitalize()) for word in words)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads the files of a run.

    A run that was killed and resumed logs the steps after its checkpoint twice: the later value
    counts. Lines that are no events, such as one that the kill cut short, are left out and counted
    in the log.

    Raises:
      UserError: `path` is no run directory, it holds no measurement yet, or a file is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"'{path}' is not a directory; give the --workdir of a training run.")
    for name in (CONFIG_FILE, METRICS_FILE):
        if not (path / name).is_file():
            raise UserError(
                f"'{path}' holds no {name}; give the --workdir of a training run that has started."
            )
    series = _read_series(path / METRICS_FILE)
    if not series:
        raise UserError(
            f"'{path / METRICS_FILE}' holds no measurement yet; a run writes the first one after "
            "config.log_every_steps steps."
        )
    config = read_json(path / CONFIG_FILE)
    if not isinstance(model := config.get("model"), dict) or not {"name", "norm_act"} <= set(model):
        raise UserError(
            f"'{path / CONFIG_FILE}' is not the configuration of a run: it names no model with its "
            "layer."
        )
    metadata = read_json(path / METADATA_FILE) if (path / METADATA_FILE).is_file() else {}
    try:
        metrics = metrics_of_run(metadata, config)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    summary = read_summary(path)
    if summary is None and (path / SUMMARY_FILE).is_file():
        logging.warning(
            "%s is damaged: the run counts as unfinished until its next start writes it anew",
            path / SUMMARY_FILE,
        )
    return Run(path, config, metrics, series, summary)


def load_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Reads several run directories, in the given order."""
    if not paths:
        raise UserError("No run directory given; give the --workdir of at least one training run.")
    return [load_run(path) for path in paths]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Returns one short label per run, all different: the layer, and what tells the runs apart.

    The layer comes first; model, images per worker and seed follow where the runs differ in
    them, the directory where all of these are equal. A run alone is named by layer and model.
    """
    aspects = [
        [run.norm_act for run in runs],
        [network_label(run.model, run.config["model"].get("fields", {})) for run in runs],
        [f"{run.config.get('images_per_worker')} images/worker" for run in runs],
        [f"seed {run.config.get('seed')}" for run in runs],
    ]
    shown = [aspects[0], *(values for values in aspects[1:] if len(set(values)) > 1)]
    if len(runs) == 1:
        shown = aspects[:2]
    labels = [", ".join(parts) for parts in zip(*shown, strict=True)]
    return [
        f"{label} ({run.path})" if labels.count(label) > 1 else label
        for label, run in zip(labels, runs, strict=True)
    ]


class _Table:
    """The rows that have the same columns, 8 bytes a number; as objects a million take 2 GB.

    Args:
      columns: Names of the columns.
    """

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns
        self.places = array.array("I")  # of the rows in the file
        self._numbers = array.array("d")  # row by row

    def append(self, place: int, numbers: Iterable[float]) -> None:
        """Appends a row."""
        self.places.append(place)
        self._numbers.extend(numbers)

    def column(self, name: str) -> np.ndarray:
        """Returns a column, which is not copied; then no row can be appended any more."""
        numbers = np.frombuffer(self._numbers).reshape(-1, len(self.columns))
        return numbers[:, self.columns.index(name)]


def _read_series(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Reads `metrics.jsonl` in one pass; by metric step, epoch and value, sorted by step."""
    tables: dict[tuple[str, ...], _Table] = {}
    for place, row in enumerate(read_events(path)):
        if [*map(type, row.values())].count(float) < len(row) - 1:  # the step is an int
            row = _numbers_of(row)
        columns = tuple(row)
        table = tables.get(columns)
        if table is None:
            table = tables[columns] = _Table(columns)
        table.append(place, row.values())
    having: dict[str, list[_Table]] = {}
    for table in tables.values():
        if "epoch" in table.columns:
            for name in table.columns:
                if name not in _EVENT_KEYS:
                    having.setdefault(name, []).append(table)
    series = {}
    axes: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray, np.ndarray | slice]] = {}
    for name, found in having.items():
        # Metrics that are always logged together share their steps and epochs.
        key = tuple(map(id, found))
        if key not in axes:
            axes[key] = _axes(found)
        steps, epochs, chosen = axes[key]
        series[name] = (steps, epochs, _joined([table.column(name) for table in found])[chosen])
    return series


def _numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns what is a number in a row, or stands for one.

    A null is a metric that JSON cannot hold, such as a loss of NaN.
    """
    values = {
        name: math.nan if value is None and name not in _EVENT_KEYS else value
        for name, value in row.items()
    }
    return {name: float(value) for name, value in values.items() if is_number(value)}


def _joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Puts columns one below the other; a single one is not copied."""
    return np.concatenate(columns) if len(columns) > 1 else columns[0]


def _axes(tables: Sequence[_Table]) -> tuple[np.ndarray, np.ndarray, np.ndarray | slice]:
    """Steps and epochs of the rows of several tables, and which rows they are of."""
    places = _joined([np.frombuffer(table.places, "I") for table in tables])
    steps = _joined([table.column("step") for table in tables]).astype(np.int64)
    epochs = _joined([table.column("epoch") for table in tables])
    chosen: np.ndarray | slice = slice(None)
    if np.any(np.diff(steps) <= 0):
        order = np.lexsort((places, steps))
        last = np.append(np.diff(steps[order]) != 0, True)  # of a step that was logged twice
        chosen = order[last]
    return steps[chosen], epochs[chosen], chosen
