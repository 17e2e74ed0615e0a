"""The precision of detectors over their recall, as a figure."""

import csv
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evonorm_jax.analysis.curves import run_styles, save_figure
from evonorm_jax.analysis.runs import load_runs, run_labels
from evonorm_jax.analysis.style import COLOURS, DASHES, clean_axes
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import PRECISION_RECALL_FIGURE, PRECISION_RECALL_FILE

_KINDS = {"box": "boxes", "mask": "masks"}

#: How the three precisions are drawn: that of the AP by which runs are judged is the strong one.
_LINES: dict[str, dict[str, Any]] = {
    "precision50": {"linewidth": 1.0, "alpha": 0.5, "linestyle": "-"},
    "precision75": {"linewidth": 1.2, "alpha": 0.7, "linestyle": (0, (1.2, 1.2))},
    "precision": {"linewidth": 1.8, "linestyle": "-"},
}
_OVERLAPS = {
    "precision50": "IoU 0.5",
    "precision75": "IoU 0.75",
    "precision": "mean of IoU 0.5 to 0.95",
}


class Curve(NamedTuple):
    """The precision of one category, or the mean of all.

    Attributes:
      kind: "box" or "mask".
      category_id: The category's id as text; "" for the mean of all.
      name: Its name.
      recall: `[R]` from 0 to 1.
      precision: By "precision50", "precision75" and "precision", `[R]` each; the last one is the
        mean over the overlaps 0.5 to 0.95.
    """

    kind: str
    category_id: str
    name: str
    recall: np.ndarray
    precision: Mapping[str, np.ndarray]


def plot_precision_recall(folder: str | os.PathLike[str]) -> Path | None:
    """Draws `precision_recall.csv` of a folder beside it; None where there is none.

    Raises:
      UserError: The file is not what an evaluation has written.
    """
    path = Path(folder) / PRECISION_RECALL_FILE
    if not path.exists():
        return None
    figure = draw_precision_recall([read_precision_recall(path)])
    return save_figure(figure, path.with_name(PRECISION_RECALL_FIGURE))


def compare_precision_recall(
    run_dirs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> Path | None:
    """Draws those of the runs that have measured it into one figure; None where no run has.

    Raises:
      UserError: A directory is no run, a table is not what an evaluation has written, or the
        ending of `output` names no image format.
    """
    folders = [path for path in map(Path, run_dirs) if (path / PRECISION_RECALL_FILE).exists()]
    if not folders:
        return None
    tables = [read_precision_recall(path / PRECISION_RECALL_FILE) for path in folders]
    runs = load_runs(folders)
    return save_figure(draw_precision_recall(tables, run_labels(runs), run_styles(runs)), output)


def read_precision_recall(path: Path) -> list[Curve]:
    """Reads `precision_recall.csv`.

    Raises:
      UserError: The file is not what an evaluation has written.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        groups = itertools.groupby(rows, lambda row: (row["kind"], row["category_id"], row["name"]))
        curves = []
        for key, group in groups:
            lines = list(group)
            columns = {
                name: np.array([float(line[name]) for line in lines])
                for name in ("recall", *_OVERLAPS)
            }
            curves.append(Curve(*key, columns.pop("recall"), columns))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"'{path}' is no table of precisions ({error}); evaluate again.") from None
    if not curves or any(curve.kind not in _KINDS for curve in curves):
        raise UserError(f"'{path}' is no table of boxes and masks; evaluate again.")
    return curves


def draw_precision_recall(
    tables: Sequence[Sequence[Curve]],
    labels: Sequence[str] = ("",),
    looks: Sequence[Mapping[str, Any]] = ({"color": COLOURS[0]},),
) -> Figure:
    """Draws a panel of boxes and one of masks, and below them the categories of a table alone.

    Args:
      tables: The curves of each run.
      labels: What each run is called; one alone needs no name.
      looks: The colour of each run.
    """
    kinds = [kind for kind in _KINDS if any(c.kind == kind for table in tables for c in table)]
    categories = list(dict.fromkeys(c[1:3] for c in tables[0] if c.category_id))
    rows = 2 if len(tables) == 1 and len(categories) > 1 else 1
    lines = 0.2 * (len(tables) if len(tables) > 1 else len(_LINES))  # inches, of the legends
    size = (4.8 * len(kinds), 3.9 * rows + lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, len(kinds), squeeze=False)
    for axis, kind in zip(panels[0], kinds, strict=True):
        _draw_means(axis, kind, tables, labels, looks)
    if len(tables) > 1:
        figure.suptitle("thick: mean of IoU 0.5 to 0.95, thin: 0.5, dotted: 0.75", fontsize=10)
    if rows == 2:
        for axis, kind in zip(panels[1], kinds, strict=True):
            _draw_categories(axis, [c for c in tables[0] if c.kind == kind], categories)
        handles = panels[1][0].get_lines()
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    for legend in (*figure.legends, *(axis.get_legend() for axis in panels.flat)):
        for text in legend.get_texts() if legend else ():
            text.set_parse_math(False)  # names of folders and classes: a $ in one is a $
    return figure


def _draw_means(
    axis: Axes,
    kind: str,
    tables: Sequence[Sequence[Curve]],
    labels: Sequence[str],
    looks: Sequence[Mapping[str, Any]],
) -> None:
    """Draws the means over all categories at the three overlaps."""
    alone = len(tables) == 1
    for table, label, look in zip(tables, labels, looks, strict=True):
        for curve in (c for c in table if c.kind == kind and not c.category_id):
            for name, line in _LINES.items():
                score = f"AP {100 * curve.precision[name].mean():.1f} %"
                text = f"{_OVERLAPS[name]}: {score}" if alone else f"{label}: {score}"
                shown = text if alone or name == "precision" else "_"
                _draw_line(axis, curve, name, label=shown, color=look["color"], **line)
    _finish(axis, _KINDS[kind])
    # Below the panel: the lines reach every corner of it.
    axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _draw_categories(
    axis: Axes, curves: Sequence[Curve], categories: Sequence[tuple[str, str]]
) -> None:
    """Draws for each category the mean over the overlaps, with the same look in every panel."""
    for place, (category_id, name) in enumerate(categories):
        look = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        }
        for curve in (c for c in curves if c.category_id == category_id):
            _draw_line(axis, curve, "precision", label=name or category_id, **look)
    _finish(axis, f"{_KINDS[curves[0].kind]} by category, {_OVERLAPS['precision']}")


def _draw_line(axis: Axes, curve: Curve, name: str, **style: Any) -> None:
    axis.plot(100 * curve.recall, 100 * curve.precision[name], **style)


def _finish(axis: Axes, title: str) -> None:
    axis.set(xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 100), ylim=(0, 101))
    axis.set_title(title, fontsize=10)
    clean_axes(axis)
