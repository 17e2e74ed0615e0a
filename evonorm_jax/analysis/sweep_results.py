"""`results.csv`: the table of a sweep, one row for each run, to be drawn and compared again."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from evonorm_jax.analysis.sweeps import Setting, Sweep, SweepRun
from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import shorten
from evonorm_jax.metrics import CLASSIFICATION, Metric, RunMetrics
from evonorm_jax.run_files import write_csv

RESULTS_FILE = "results.csv"
# Columns that older tables lack: they are of sweeps in epochs, with equal workers.
_OPTIONAL = {"num_steps", "batch_size", "train_loss"}
_REMEDY = "Write the table anew: `python -m experiments.plot WORKDIR`."


def write_results(sweep: Sweep, path: Path) -> None:
    """Writes one row for each run, with the setting in every row.

    Every metric has a column of its name; of those that no run has measured, only the shown ones
    have. What the main metric means stands in further columns, but not for top-1 accuracy, which a
    reader takes a table without them to hold.
    """
    setting, metric = dataclasses.asdict(sweep.setting), _metric_columns(sweep.metrics)
    measured = set().union(*(run.others for run in sweep.runs), sweep.metrics.shown)
    names = [name for name in sweep.metrics.reported if name in measured]
    rows = [setting | _to_row(run, sweep.metrics, names) | metric for run in sweep.runs]
    write_csv(path, [[*rows[0]], *([_as_text(value) for value in row.values()] for row in rows)])


def _as_text(value: Any) -> Any:
    return "" if value is None else f"{value:.10g}" if type(value) is float else value


def read_results(path: str | os.PathLike[str]) -> Sweep:
    """Reads what `write_results` wrote.

    Raises:
      UserError: The file is not there, is not of that kind, or is damaged; then with the line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"'{path}' is not a file; give the {RESULTS_FILE} of a recorded sweep.")
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"'{path}' is not the table of a sweep: it has no rows.")
    first = rows[0]
    about = {"shown", "label", "unit", "higher_is_better", "short"}
    _check_columns(first, about if "main_metric" in first.values else set())
    metrics = _read_metrics(first)
    wanted = {f.name for f in dataclasses.fields(Setting)}
    wanted = (wanted | _to_row(SweepRun("", 0, 0), metrics, metrics.others).keys()) - _OPTIONAL
    _check_columns(first, wanted)
    setting = Setting(
        first.values["dataset"],
        first.values["source"],
        first.values["model"],
        first.whole("num_workers"),
        first.number("num_epochs"),
        first.whole("batch_size") if "batch_size" in first.values else 0,
    )
    return Sweep(setting, [_from_row(row, metrics) for row in rows], metrics)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of a table that a person may have edited, and where it stands."""

    path: Path
    line: int
    values: Mapping[str, str]

    def whole(self, column: str) -> int:
        try:
            return int(self.values[column])
        except ValueError:
            raise self._wrong(column, "a whole number") from None

    def number(self, column: str) -> float:
        try:
            return float(self.values[column])
        except ValueError:
            raise self._wrong(column, "a number") from None

    def _wrong(self, column: str, kind: str) -> UserError:
        return UserError(
            f"'{self.path}', line {self.line}, column '{column}': {shorten(self.values[column])} "
            f"is not {kind}. {_REMEDY}"
        )


def _read_rows(path: Path) -> list[_Row]:
    """Reads the rows below the header, each as long as it is.

    Raises:
      UserError: The file is no text, or a row has more or fewer values than there are columns.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"'{path}', line {line} is not UTF-8 text. {_REMEDY}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"'{path}', line {line} holds a NUL byte. {_REMEDY}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[_Row] = []
    try:
        header = next(reader, [])
        for values in filter(None, reader):
            if len(values) != len(header):
                place = f", column '{header[len(values)]}'" if len(values) < len(header) else ""
                raise UserError(
                    f"'{path}', line {reader.line_num}{place}: the row has {len(values)} values, "
                    f"and the table {len(header)} columns. {_REMEDY}"
                )
            rows.append(_Row(path, reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise UserError(
            f"'{path}', line {reader.line_num} is no row of a table ({error}). {_REMEDY}"
        ) from None
    return rows


def _check_columns(row: _Row, wanted: Set[str]) -> None:
    if missing := wanted - row.values.keys():
        raise UserError(
            f"'{row.path}', line 1 is not the header of a sweep's table: its columns must be "
            f"{', '.join(sorted(wanted))}; missing are {', '.join(sorted(missing))}."
        )


def _metric_columns(metrics: RunMetrics) -> dict[str, Any]:
    if metrics.main == CLASSIFICATION.main:
        return {}
    about = {name: " ".join(getattr(metrics, name)) for name in ("shown", "tabled", "counts")}
    return {"main_metric": metrics.main_metric, **about, **dataclasses.asdict(metrics.main)}


def _read_metrics(first: _Row) -> RunMetrics:
    row = first.values
    if "main_metric" not in row:
        return CLASSIFICATION
    better = {"True": True, "False": False}.get(row["higher_is_better"])
    main = Metric(row["label"], row["unit"], better, row["short"])
    if "digits" in row:  # older tables have neither these nor the two below
        main = dataclasses.replace(main, digits=first.whole("digits"))
    name = row["main_metric"]
    shown, tabled, counts = (
        tuple(row.get(about, "").split()) for about in ("shown", "tabled", "counts")
    )
    return RunMetrics(name, shown, {name.rpartition("/")[2]: main}, tabled, counts)


def _to_row(run: SweepRun, metrics: RunMetrics, others: Iterable[str]) -> dict[str, Any]:
    """A run by the names of the columns, with these of the metrics beside the main one."""
    row: dict[str, Any] = {}
    for field in dataclasses.fields(SweepRun):
        if field.name == "score":
            row[metrics.main_name] = run.score
        elif field.name == "others":
            row |= {name: run.others.get(name) for name in others}
        else:
            row[field.name] = getattr(run, field.name)
    return row


def _from_row(row: _Row, metrics: RunMetrics) -> SweepRun:
    values = row.values

    def number(column: str) -> float | None:
        return row.number(column) if values[column] else None

    others = {name: number(name) for name in metrics.reported if name in values}
    return SweepRun(
        layer=values["layer"],
        images_per_worker=row.whole("images_per_worker"),
        seed=row.whole("seed"),
        steps=row.whole("steps"),
        score=number(metrics.main_name),
        others={name: value for name, value in others.items() if value is not None},
        num_steps=row.whole("num_steps") if "num_steps" in values else 0,
        examples=row.whole("examples") if values["examples"] else None,
        train_loss=number("train_loss") if "train_loss" in values else None,
        train_seconds=number("train_seconds"),
        date=values["date"],
        commit=values["commit"],
        hardware=values["hardware"],
    )
