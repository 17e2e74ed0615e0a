"""The cells of a sweep: one training run each, with a name that is also its run directory."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.analysis.runs import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE
from evonorm_jax.errors import UserError

_LAYER, _LAYER_FIELDS = "model.norm_act", "model.norm_act_fields."
_TAIL_BYTES = 16_384  # about eighty rows of metrics.jsonl


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, as its own files say.

    Attributes:
      step: of the newest row.
      top1: of the newest evaluation, or of training before the first one; a fraction.
      seconds_per_step: between the rows at hand; 0 while there are fewer than two.
    """

    step: int = 0
    top1: float | None = None
    seconds_per_step: float = 0.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      name: relative path of the run directory, such as `bn_relu/images_per_worker=4/seed=0`.
      overrides: dotted field of the config -> value.
      root: the folder of the sweep.
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
        """What the run printed. Beside its directory: a run starts in an empty one."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def lock(self) -> Path:
        """The file whose lock says that the cell is running somewhere."""
        return self.workdir.with_name(f".{self.workdir.name}.lock")

    @property
    def arguments(self) -> list[str]:
        """The overrides as arguments of a launcher."""
        return [f"--config.{name}={value}" for name, value in self.overrides.items()]

    def is_finished(self) -> bool:
        """Whether the run has written its summary."""
        return (self.workdir / SUMMARY_FILE).exists()

    def is_started(self) -> bool:
        """Whether there is a run to be resumed."""
        return (self.workdir / CONFIG_FILE).exists()

    def final_top1(self) -> float | None:
        """The accuracy of the finished run, a fraction."""
        return _read_object(self.workdir / SUMMARY_FILE).get("eval/top1")

    def num_steps(self) -> int | None:
        """Length of the run, once its first start has resolved it."""
        starts = _read_object(self.workdir / "metadata.json").get("starts")
        return starts[-1]["resolved"]["num_steps"] if starts else None

    def progress(self, since: float = 0.0) -> Progress:
        """The newest that the run has logged; its speed from what it logged `since` then (s)."""
        rows = _last_rows(self.workdir / METRICS_FILE)
        if not rows:
            return Progress()
        last = rows[-1]
        first = next((row for row in rows if row["time"] >= since), last)
        steps = last["step"] - first["step"]
        evaluations = [row["eval/top1"] for row in rows if "eval/top1" in row]
        training = [row["train/top1"] for row in rows if "train/top1" in row]
        return Progress(
            step=last["step"],
            top1=(evaluations or training or [None])[-1],
            seconds_per_step=(last["time"] - first["time"]) / steps if steps > 0 else 0.0,
        )


def create_cells(overrides: Iterable[Mapping[str, Any]], root: Path) -> list[Cell]:
    """One cell for each mapping of overrides.

    Raises:
      UserError: for two cells of one name, or a sweep without cells.
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
    """A relative path that says what the cell overrides: its layer first, then every field.

    >>> cell_name({"model.norm_act": "bn_relu", "images_per_worker": 4, "seed": 0})
    'bn_relu/images_per_worker=4/seed=0'
    >>> cell_name({"model.norm_act": "frn", "optimizer.weight_decay": 1e-4})
    'frn/optimizer.weight_decay=0.0001'

    The fields of the layer stand with its name:

    >>> cell_name({"model.norm_act": "gn_relu", "model.norm_act_fields.group_size": 8, "seed": 1})
    'gn_relu,group_size=8/seed=1'
    """
    layer, parts = [], []
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
    """The cells whose name matches one of the shell patterns; all of them without patterns.

    >>> cells = create_cells([{"seed": 0}, {"seed": 1}], Path("runs"))
    >>> [cell.name for cell in select_cells(cells, ["*=1"])]
    ['seed=1']

    Raises:
      UserError: for a pattern that matches none.
    """
    if not patterns:
        return list(cells)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in cells):
            raise UserError(
                f"--only '{pattern}' matches no cell of the sweep; a name is, for instance, "
                f"'{cells[0].name}'."
            )
    return [c for c in cells if any(fnmatch.fnmatchcase(c.name, pattern) for pattern in patterns)]


def train_arguments(cell: Cell, config_file: str, overrides: Sequence[str]) -> list[str]:
    """The arguments of `experiments.train` that run the cell."""
    return [f"--config={config_file}", f"--workdir={cell.workdir}", *overrides, *cell.arguments]


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a run that may be starting or being written; `{}` where it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows at the end of `metrics.jsonl`."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the first line may be cut by the seek, the last is being written
        if isinstance(row, dict) and {"step", "time"} <= row.keys():
            rows.append(row)
    return rows
