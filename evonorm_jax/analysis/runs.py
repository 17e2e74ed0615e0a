"""A run directory as one object: what was asked for, what was measured, how it ended."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
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
    read_json,
    read_json_lines,
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

    >>> layer_label("evonorm_s0"), layer_label("bn_relu"), layer_label("frn")
    ('EvoNorm-S0', 'BN-ReLU', 'FRN')
    >>> layer_label("graph:winner: n4 = sigmoid(x); n5 = mul(x, n4)")
    'winner'
    """
    if name.startswith("graph:"):
        return name.removeprefix("graph:").partition(": ")[0]
    return "-".join(_SPELLING.get(word, word.capitalize()) for word in name.split("_"))


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads the files of a run.

    A run that was killed and resumed logs the steps after its checkpoint twice: the later value
    counts. The line that the kill cut short is left out, with a warning in the log.

    Raises:
      UserError: `path` is no run directory, or it holds no measurement yet.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"'{path}' is not a directory; give the --workdir of a training run.")
    for name in (CONFIG_FILE, METRICS_FILE):
        if not (path / name).is_file():
            raise UserError(
                f"'{path}' holds no {name}; give the --workdir of a training run that has started."
            )
    events = _read_events(path / METRICS_FILE)
    series = _collect_series(events)
    if not series:
        raise UserError(
            f"'{path / METRICS_FILE}' holds no measurement yet; a run writes the first one after "
            "config.log_every_steps steps."
        )
    config = read_json(path / CONFIG_FILE)
    metadata, summary = (
        read_json(path / name) if (path / name).is_file() else None
        for name in (METADATA_FILE, SUMMARY_FILE)
    )
    return Run(path, config, metrics_of_run(metadata or {}, config), series, summary)


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


def _read_events(path: Path) -> list[dict[str, Any]]:
    events = []
    for line in read_json_lines(path):
        if line.row is not None and {"step", "epoch"} <= line.row.keys():
            events.append(line.row)
        else:  # a kill in the middle of a write; the resumed run logs that step again
            logging.warning("%s:%d is not a complete event and is left out", path, line.number)
    return events


def _collect_series(
    events: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    points: dict[str, dict[int, tuple[float, float]]] = {}
    for event in events:
        step = int(event["step"])
        for name, value in event.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in _EVENT_KEYS and (is_number or value is None):
                # A null stands for a value that JSON cannot hold, such as a loss of NaN.
                number = float("nan") if value is None else float(value)
                points.setdefault(name, {})[step] = (float(event["epoch"]), number)
    series = {}
    for name, by_step in points.items():
        steps = sorted(by_step)
        epochs, values = zip(*(by_step[step] for step in steps), strict=True)
        series[name] = (np.array(steps, np.int64), np.array(epochs), np.array(values))
    return series
