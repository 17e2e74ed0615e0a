"""Where metrics go: `metrics.jsonl` always, TensorBoard where it is installed, writers of your own.

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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evonorm_jax.data.tf_import import require_tensorflow
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import (
    METRICS_FILE,
    is_event,
    read_events,
    read_json_lines,
    replacing,
)
from evonorm_jax.training.own_code import import_named

if TYPE_CHECKING:
    import ml_collections

#: `Writer(workdir, config)` with the run directory and the resolved config as a dictionary.
WriterFactory = Callable[[Path, dict[str, Any]], "MetricWriter"]


class MetricWriter(Protocol):
    """Anything that takes one row of scalars per event.

    A resumed run writes the steps after its last checkpoint again. A writer that also has a method
    `resume(step)` is told so before its first row: rows of later steps that it took from an earlier
    process come again. The step is 0 where a run begins, or begins anew.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the row of an event.

        Args:
          step: Updates made.
          scalars: `epoch` and metrics by their full names, such as `train/loss` or `eval/top1`.
            A value may be NaN or infinite.
        """

    def close(self) -> None:
        """Ends the writing; called at the end of every run, failed ones included."""


class JsonlWriter:
    """Appends one JSON object per event to `metrics.jsonl`."""

    def __init__(self, workdir: Path):
        self._file = (workdir / METRICS_FILE).open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the row of an event."""
        # JSON has no NaN: a value that is not finite is null.
        values = {n: value if math.isfinite(value) else None for n, value in scalars.items()}
        row = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Event files through `clu.metric_writers`, which needs TensorFlow."""

    def __init__(self, workdir: Path):
        # Imported here: clu brings TensorFlow in, which takes 3 to 16 s, and must not take the GPU.
        require_tensorflow(purpose="TensorBoard")
        from clu import metric_writers

        self._writer = metric_writers.SummaryWriter(str(workdir))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one event for each scalar."""
        self._writer.write_scalars(step, dict(scalars))
        self._writer.flush()  # a checkpoint must not be ahead of the events before it

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class MultiWriter:
    """Passes every row to several writers; to none on all processes but the first."""

    def __init__(self, writers: tuple[MetricWriter, ...]):
        self._writers = writers

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Passes the row on."""
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


def find_writers(config: ml_collections.ConfigDict) -> list[WriterFactory]:
    """Imports the writers that `config.metric_writers` names.

    Raises:
      UserError: One of them is not there, or cannot be called.
    """
    factories = []
    for name in config.metric_writers:
        try:
            factory = import_named(name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(
                f"config.metric_writers names {name!r}, which cannot be imported: {error}. Name a "
                "class of your own as 'package.module:Class', importable from the folder of the "
                "command."
            ) from error
        if not callable(factory):
            raise UserError(f"config.metric_writers names {name!r}, which is no class or function.")
        factories.append(factory)
    return factories


def create_writer(
    workdir: Path,
    *,
    first_process: bool,
    tensorboard: bool,
    others: Iterable[Callable[[], MetricWriter]] = (),
    start_step: int = 0,
) -> MultiWriter:
    """Creates the writers of a run.

    Args:
      workdir: The run directory.
      first_process: Whether this process writes anything at all.
      tensorboard: Whether to write event files, where the packages for them are installed.
      others: Create further writers.
      start_step: The step that the run goes on from, for those of the others that ask for it.
    """
    if not first_process:
        return MultiWriter(())
    writers: list[MetricWriter] = [JsonlWriter(workdir)]
    if tensorboard and tensorboard_available():
        writers.append(TensorBoardWriter(workdir))
    for create in others:
        writers.append(create())
        if (resume := getattr(writers[-1], "resume", None)) is not None:
            resume(start_step)
    return MultiWriter(tuple(writers))


def drop_after(workdir: Path, step: int) -> int:
    """Removes what a resumed run makes again, and what is no event; returns how many lines.

    Args:
      workdir: The run directory.
      step: Later rows of `metrics.jsonl` go.
    """
    path = workdir / METRICS_FILE
    num_lines = sum(1 for _ in read_json_lines(path))
    kept = sum(1 for row in read_events(path) if row["step"] <= step)
    # A last row without its line break would run into the next one.
    if kept < num_lines or (kept and not _ends_with_line_break(path)):
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for line in read_json_lines(path):
                if line.row and is_event(line.row) and line.row["step"] <= step:
                    stream.write(f"{line.text}\n")
    return num_lines - kept


def _ends_with_line_break(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def has_row(workdir: Path, step: int, metric: str) -> bool:
    """Whether `metrics.jsonl` holds that metric of that step."""
    rows = (line.row or {} for line in read_json_lines(workdir / METRICS_FILE))
    return any(row.get("step") == step and metric in row for row in rows)
