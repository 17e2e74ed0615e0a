"""A run directory as one object: what was asked for, what was measured, how it ended."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonorm_jax.errors import UserError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"

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
      path: the directory.
      config: the resolved configuration, as nested dictionaries.
      series: metric name -> three arrays of equal length, sorted by step: step (int64),
        epoch (float64) and value (float64).
      summary: the final numbers, or None if the run has not ended.
    """

    path: Path
    config: Mapping[str, Any]
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    summary: Mapping[str, Any] | None

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.series))

    @property
    def model(self) -> str:
        """The registered name of the network."""
        return str(self.config["model"]["name"])

    @property
    def norm_act(self) -> str:
        """The layer in prose: `evonorm_s0` -> `EvoNorm-S0`."""
        return layer_label(str(self.config["model"]["norm_act"]))


def accuracy_metric(config: Mapping[str, Any]) -> str:
    """The accuracy that a run is judged by, of its averaged weights where it keeps them.

    >>> accuracy_metric({"ema_decay": 0.9999}), accuracy_metric({"ema_decay": 0.0})
    ('eval_ema/top1', 'eval/top1')
    """
    return "eval_ema/top1" if config.get("ema_decay", 0.0) > 0 else "eval/top1"


def layer_label(name: str) -> str:
    """The registered name of a layer as the literature writes it; of a searched layer its label.

    >>> layer_label("evonorm_s0"), layer_label("bn_relu"), layer_label("frn")
    ('EvoNorm-S0', 'BN-ReLU', 'FRN')
    >>> layer_label("graph:winner: n4 = sigmoid(x); n5 = mul(x, n4)")
    'winner'
    """
    if name.startswith("graph:"):
        return name.removeprefix("graph:").partition(": ")[0]
    return "-".join(_SPELLING.get(word, word.capitalize()) for word in name.split("_"))


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads `config.json`, `metrics.jsonl` and, where the run has ended, `summary.json`.

    A run that was killed and resumed logs the steps after its checkpoint twice: the later value
    counts. The line that the kill cut short is left out, with a warning in the log.

    Raises:
      UserError: `path` is no run directory, or it holds no measurement yet.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"'{path}' is not a directory; give the --workdir of a training run")
    for name in (CONFIG_FILE, METRICS_FILE):
        if not (path / name).is_file():
            raise UserError(
                f"'{path}' holds no {name}; give the --workdir of a training run that has started"
            )
    events = _read_events(path / METRICS_FILE)
    series = _collect_series(events)
    if not series:
        raise UserError(
            f"'{path / METRICS_FILE}' holds no measurement yet; a run writes the first one after "
            "config.log_every_steps steps"
        )
    summary_path = path / SUMMARY_FILE
    return Run(
        path=path,
        config=read_json(path / CONFIG_FILE),
        series=series,
        summary=read_json(summary_path) if summary_path.is_file() else None,
    )


def load_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Reads several run directories, in the given order."""
    if not paths:
        raise UserError("no run directory given; give the --workdir of at least one training run")
    return [load_run(path) for path in paths]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """One short label per run, all different: the layer, and whatever else tells the runs apart.

    The layer comes first; model, images per worker and seed follow where the runs differ in
    them, the directory where all of these are equal. A run alone is named by layer and model.
    """
    aspects = [
        [run.norm_act for run in runs],
        [run.model for run in runs],
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run directory.

    Raises:
      UserError: the file is damaged, or of something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"'{path}' is not valid JSON ({error}); is it from a training run?"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must hold a JSON object, not {type(content).__name__}")
    return content


def _read_events(path: Path) -> list[dict[str, Any]]:
    events = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and {"step", "epoch"} <= event.keys():
                events.append(event)
            else:  # a kill in the middle of a write; the resumed run logs that step again
                logging.warning("%s:%d is not a complete event and is left out", path, number)
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
