"""`results.csv`: the table of a sweep, one row for each run, to be drawn and compared again."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonorm_jax.analysis.sweeps import Setting, Sweep, SweepRun
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import CLASSIFICATION, Metric, RunMetrics

RESULTS_FILE = "results.csv"
# Columns that a table may lack: it is then of a sweep in epochs, with equal workers.
_OPTIONAL = {"num_steps", "batch_size"}


def write_results(sweep: Sweep, path: Path) -> None:
    """Writes one row for each run, with the setting in every row.

    The main metric has a column of its name. What it means stands in further columns, but not for
    top-1 accuracy, which a reader takes a table without them to hold.
    """
    setting, metric = dataclasses.asdict(sweep.setting), _metric_columns(sweep.metrics)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        rows = [setting | _to_row(run, sweep.metrics) | metric for run in sweep.runs]
        writer.writerow(rows[0])
        for row in rows:
            values = row.values()
            writer.writerow(
                "" if v is None else f"{v:.10g}" if type(v) is float else v for v in values
            )


def read_results(path: str | os.PathLike[str]) -> Sweep:
    """Reads what `write_results` wrote.

    Raises:
      UserError: The file is not there or not of that kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"'{path}' is not a file; give the {RESULTS_FILE} of a recorded sweep.")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    metrics = _read_metrics(rows[0]) if rows else CLASSIFICATION
    wanted = {f.name for f in dataclasses.fields(Setting)}
    wanted = (wanted | _to_row(SweepRun("", 0, 0), metrics).keys()) - _OPTIONAL
    if not rows or wanted - rows[0].keys():
        raise UserError(
            f"'{path}' is not the table of a sweep: its columns must be "
            f"{', '.join(sorted(wanted))}."
        )
    first = rows[0]
    setting = Setting(
        first["dataset"],
        first["source"],
        first["model"],
        int(first["num_workers"]),
        float(first["num_epochs"]),
        int(first.get("batch_size", 0)),
    )
    return Sweep(setting, [_from_row(row, metrics) for row in rows], metrics)


def _metric_columns(metrics: RunMetrics) -> dict[str, Any]:
    if metrics.main == CLASSIFICATION.main:
        return {}
    about = {"main_metric": metrics.main_metric, "shown": " ".join(metrics.shown)}
    return about | dataclasses.asdict(metrics.main)


def _read_metrics(row: Mapping[str, str]) -> RunMetrics:
    if "main_metric" not in row:
        return CLASSIFICATION
    main = Metric(row["label"], row["unit"], row["higher_is_better"] == "True", row["short"])
    name = row["main_metric"]
    return RunMetrics(name, tuple(row["shown"].split()), {name.rpartition("/")[2]: main})


def _to_row(run: SweepRun, metrics: RunMetrics) -> dict[str, Any]:
    """A run by the names of the columns."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(SweepRun):
        if field.name == "score":
            row[metrics.main_name] = run.score
        elif field.name == "others":
            row |= {name: run.others.get(name) for name in metrics.others}
        else:
            row[field.name] = getattr(run, field.name)
    return row


def _from_row(row: Mapping[str, str], metrics: RunMetrics) -> SweepRun:
    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    others = {name: number(name) for name in metrics.others}
    return SweepRun(
        layer=row["layer"],
        images_per_worker=int(row["images_per_worker"]),
        seed=int(row["seed"]),
        steps=int(row["steps"]),
        score=number(metrics.main_name),
        others={name: value for name, value in others.items() if value is not None},
        num_steps=int(row.get("num_steps", 0)),
        examples=int(row["examples"]) if row["examples"] else None,
        train_seconds=number("train_seconds"),
        date=row["date"],
        commit=row["commit"],
        hardware=row["hardware"],
    )
