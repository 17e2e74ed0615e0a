"""Where metrics go: `metrics.jsonl` always, TensorBoard through clu where TensorFlow is there.

Only the first process writes. Rows are appended and flushed one by one, so a kill loses at most
the row being written; `drop_after` then removes that torn row, and the rows of steps that a
resumed run makes again.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from evonorm_jax.analysis.runs import METRICS_FILE
from evonorm_jax.data.tf_import import require_tensorflow


class MetricWriter(Protocol):
    """Anything that takes one row of scalars per event."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)


class JsonlWriter:
    """Appends one JSON object per event to `metrics.jsonl`."""

    def __init__(self, workdir: Path):
        self._file = (workdir / METRICS_FILE).open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        # JSON has no NaN: a value that is not finite is null.
        values = {n: value if math.isfinite(value) else None for n, value in scalars.items()}
        row = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files through `clu.metric_writers`, which needs TensorFlow."""

    def __init__(self, workdir: Path):
        # Imported here: clu brings TensorFlow in, which takes 3 to 16 s, and must not take the GPU.
        require_tensorflow(purpose="TensorBoard")
        from clu import metric_writers

        self._writer = metric_writers.SummaryWriter(str(workdir))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, dict(scalars))

    def close(self) -> None:
        self._writer.close()


class MultiWriter:
    """Passes every row to several writers; to none on all processes but the first."""

    def __init__(self, writers: tuple[MetricWriter, ...]):
        self._writers = writers

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, scalars)

    def __enter__(self) -> MultiWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()


def tensorboard_available() -> bool:
    """Whether clu's summary writer can be imported; does not import TensorFlow to find out."""
    return all(importlib.util.find_spec(name) for name in ("clu", "tensorflow", "tensorboard"))


def create_writer(workdir: Path, *, first_process: bool, tensorboard: bool) -> MultiWriter:
    """The writers of a run; TensorBoard only where its packages are installed."""
    if not first_process:
        return MultiWriter(())
    writers: list[MetricWriter] = [JsonlWriter(workdir)]
    if tensorboard and tensorboard_available():
        writers.append(TensorBoardWriter(workdir))
    return MultiWriter(tuple(writers))


def drop_after(workdir: Path, step: int) -> int:
    """Removes the rows of `metrics.jsonl` past `step`, and a torn last line; returns how many."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return 0
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    kept = [line for line in lines if (row := _parse(line)) is not None and row["step"] <= step]
    if len(kept) < len(lines) or not text.endswith("\n"):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
    return len(lines) - len(kept)


def has_row(workdir: Path, step: int, metric: str) -> bool:
    """Whether `metrics.jsonl` holds that metric of that step."""
    path = workdir / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = (_parse(line) or {} for line in lines)
    return any(row.get("step") == step and metric in row for row in rows)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
