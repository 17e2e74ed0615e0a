"""The cells of a sweep: one training run each, with a name that is also its run directory."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics, metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    METADATA_FILE,
    METRICS_FILE,
    is_event,
    is_number,
    read_json_lines,
    read_json_or_empty,
    read_summary,
)

_LAYER, _LAYER_FIELDS = "model.norm_act", "model.norm_act_fields."
_TAIL_BYTES = 16_384  # about eighty rows of metrics.jsonl


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """How far a run is, as its own files say.

    Attributes:
      step: Step of the newest row.
      value: Main metric of the newest evaluation, or of training before the first one; as logged.
      seconds_per_step: Mean over the rows at hand; 0 while there are fewer than two.
    """

    step: int = 0
    value: float | None = None
    seconds_per_step: float = 0.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      name: Relative path of the run directory, such as `bn_relu/images_per_worker=4/seed=0`.
      overrides: Values by the dotted names of the config's fields.
      root: Folder of the sweep.
    """

    name: str
    overrides: Mapping[str, Any]
    root: Path

    @property
    def workdir(self) -> Path:
        """The run directory."""
        return self.root / self.name

    @property
    def log(self) -> Path:
        """The file of what the run prints; it lies beside the run directory."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def arguments(self) -> list[str]:
        """The overrides as arguments of a launcher."""
        return [f"--config.{name}={value}" for name, value in self.overrides.items()]

    def is_finished(self) -> bool:
        """Whether the run has written its summary, whole."""
        return read_summary(self.workdir) is not None

    def is_started(self) -> bool:
        """Whether there is a run to be resumed."""
        return (self.workdir / CONFIG_FILE).exists()

    def metrics(self) -> RunMetrics:
        """What the metrics of the run mean."""
        config = read_json_or_empty(self.workdir / CONFIG_FILE)
        try:
            return metrics_of_run(read_json_or_empty(self.workdir / METADATA_FILE), config)
        except UserError:  # damaged: the run's next start writes it anew
            return metrics_of_run({}, config)

    def final_value(self) -> str:
        """The main metric of the finished run with its unit; "" where it has none."""
        metrics = self.metrics()
        value = (read_summary(self.workdir) or {}).get(metrics.main_metric)
        return "" if value is None else metrics.main.format(value)

    def num_steps(self) -> int | None:
        """Length of the run, once its first start has resolved it."""
        starts = read_json_or_empty(self.workdir / METADATA_FILE).get("starts")
        try:
            return int(starts[-1]["resolved"]["num_steps"]) if starts else None
        except (LookupError, TypeError, ValueError, OverflowError):  # damaged
            return None

    def status(self, since: float = 0.0) -> RunStatus:
        """How far the run is.

        Args:
          since: Time of its start, in seconds since 1970; its speed is measured from there on.
        """
        lines = read_json_lines(self.workdir / METRICS_FILE, last_bytes=_TAIL_BYTES)
        rows = [
            line.row
            for line in lines
            if line.row and is_event(line.row) and is_number(line.row.get("time"))
        ]
        if not rows:
            return RunStatus()
        last = rows[-1]
        first = next((row for row in rows if row["time"] >= since), last)
        steps = last["step"] - first["step"]
        evaluated = self.metrics().main_metric
        trained = f"train/{evaluated.rpartition('/')[2]}"
        evaluations = [row[evaluated] for row in rows if is_number(row.get(evaluated))]
        training = [row[trained] for row in rows if is_number(row.get(trained))]
        return RunStatus(
            step=last["step"],
            value=(evaluations or training or [None])[-1],
            seconds_per_step=(last["time"] - first["time"]) / steps if steps > 0 else 0.0,
        )


def create_cells(overrides: Iterable[Mapping[str, Any]], root: Path) -> list[Cell]:
    """Makes one cell of each mapping of overrides.

    Raises:
      UserError: Two cells have one name, or there is none.
    """
    cells = [Cell(cell_name(mapping), dict(mapping), root) for mapping in overrides]
    if not cells:
        raise UserError("The sweep has no cells: its function sweep() yields no overrides.")
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise UserError(
                f"The sweep yields '{cell.name}' twice; every cell must differ from the others in "
                "its overrides."
            )
        seen.add(cell.name)
    return cells


def cell_name(overrides: Mapping[str, Any]) -> str:
    """Returns a relative path that says what a cell overrides: its layer, then every other field.

    >>> cell_name({"model.norm_act": "bn_relu", "images_per_worker": 4, "seed": 0})
    'bn_relu/images_per_worker=4/seed=0'
    >>> cell_name({"model.norm_act": "frn", "optimizer.weight_decay": 1e-4})
    'frn/optimizer.weight_decay=0.0001'

    The fields of the layer stand with its name:

    >>> cell_name({"model.norm_act": "gn_relu", "model.norm_act_fields.group_size": 8, "seed": 1})
    'gn_relu,group_size=8/seed=1'
    """
    layer: list[str] = []
    parts: list[str] = []
    for name, value in overrides.items():
        text = str(value).replace(os.sep, "_")
        if name == _LAYER:
            layer.insert(0, text)
        elif name.startswith(_LAYER_FIELDS):
            layer.append(f"{name.removeprefix(_LAYER_FIELDS)}={text}")
        else:
            parts.append(f"{name}={text}")
    return "/".join([",".join(layer), *parts] if layer else parts)


def select_cells(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Returns the cells whose name matches one of the shell patterns; all without patterns.

    The fields of the layer may be left out of a pattern.

    >>> layer = {"model.norm_act": "gn_relu", "model.norm_act_fields.group_size": 8}
    >>> cells = create_cells([{**layer, "seed": 0}, {**layer, "seed": 1}], Path("runs"))
    >>> [cell.name for cell in select_cells(cells, ["gn_relu/*=1"])]
    ['gn_relu,group_size=8/seed=1']

    Raises:
      UserError: A pattern matches none.
    """
    if not patterns:
        return list(cells)
    for pattern in patterns:
        if not any(_matches(cell, pattern) for cell in cells):
            names = [cell.name for cell in cells]
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:1]
            raise UserError(
                f"--only '{pattern}' matches no cell of the sweep; a name is, for instance, "
                f"{' or '.join(map(repr, near))}."
            )
    return [cell for cell in cells if any(_matches(cell, pattern) for pattern in patterns)]


def _matches(cell: Cell, pattern: str) -> bool:
    """Whether a pattern fits the name of a cell, with or without the fields of its layer."""
    short = {k: v for k, v in cell.overrides.items() if not k.startswith(_LAYER_FIELDS)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in (cell.name, cell_name(short)))


def train_arguments(cell: Cell, config_file: str, overrides: Sequence[str]) -> list[str]:
    """Returns the arguments of `experiments.train` that run a cell."""
    return [f"--config={config_file}", f"--workdir={cell.workdir}", *overrides, *cell.arguments]
