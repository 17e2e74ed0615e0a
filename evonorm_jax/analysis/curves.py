"""Curves of one or several runs: one panel per measure, one line per run, against epochs.

The colour is that of the run's layer. If all runs have the same layer, colours tell them apart.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from evonorm_jax.analysis.runs import Run, load_runs, run_labels
from evonorm_jax.analysis.style import (
    COLOURS,
    DASHES,
    MARKERS,
    NEUTRAL,
    clean_axes,
    layer_styles,
)
from evonorm_jax.analysis.sweep_files import run_layer
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CURVE_FILE, replacing

# What says in a picture who made it, so that nobody else's is replaced; other formats hold no text.
_MARK = "drawn by evonorm_jax"
_MARKS = {
    "png": {"Software": _MARK},
    **{kind: {"Creator": _MARK} for kind in ("svg", "pdf", "ps", "eps")},
}


def plot_run(run_dir: str | os.PathLike[str]) -> Path:
    """Draws the curve of one run into its own directory.

    Raises:
      UserError: The directory is no run, or it has measured nothing yet.
    """
    return plot_runs([run_dir], Path(run_dir) / CURVE_FILE)


def plot_runs(
    run_dirs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    metrics: Sequence[str] = (),
) -> Path:
    """Draws the curves of `run_dirs` into the PNG (or SVG, PDF) file `output`.

    Args:
      run_dirs: Run directories, finished or still going.
      output: The image file; its folder is made if need be.
      metrics: Names of metrics, one panel each. A name such as "loss" shows training and evaluation
        together, a full name such as "eval/loss" that metric alone. By default the panels are
        those that the task of the runs shows.

    Returns:
      The path of the image.

    Raises:
      UserError: A directory is no run, no run has one of the metrics, or the ending of `output`
        names no image format.
    """
    return save_figure(draw_runs(load_runs(run_dirs), metrics), output)


def draw_runs(runs: Sequence[Run], metrics: Sequence[str] = ()) -> Figure:
    """Draws the curves of `runs`, with panels as in `plot_runs`.

    Raises:
      UserError: No run has one of the metrics.
    """
    metrics = metrics or _shown(runs)
    panels = {metric: _resolve_metric(metric, runs) for metric in metrics}
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    looks = run_styles(runs)
    for axis, (metric, names) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, metric, names, runs, looks)
    _draw_legend(figure, [name for names in panels.values() for name in names], runs, looks)
    return figure


def run_styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns colour, marker and dashes of each run: those of its layer, where layers differ."""
    layers = [run_layer(run.config) for run in runs]
    if len(runs) > 1 and len(set(layers)) == 1:
        count = len(COLOURS)
        return [
            {
                "color": COLOURS[index % count],
                "marker": MARKERS[index // count % len(MARKERS)],
                "linestyle": DASHES[index // count % len(DASHES)],
            }
            for index in range(len(runs))
        ]
    return layer_styles(layers)


def _shown(runs: Sequence[Run]) -> list[str]:
    """Returns the metrics that the tasks of the runs show, as far as a run has measured them."""
    shown = list(dict.fromkeys(name for run in runs for name in run.metrics.shown))
    measured = {name.split("/")[-1] for run in runs for name in run.metric_names}
    return [name for name in shown if name in measured] or shown


def save_figure(figure: Figure, output: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure in the format that the ending of `output` names, at `dpi` dots per inch.

    Raises:
      UserError: It names none.
    """
    output = Path(output)
    formats = figure.canvas.get_supported_filetypes()
    if output.suffix.lstrip(".") not in formats:
        raise UserError(f"--output '{output}' must end in one of .{', .'.join(sorted(formats))}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = output.suffix.lstrip(".")
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=dpi, format=kind, metadata=_MARKS.get(kind))
    return output


def check_replaceable(output: Path) -> None:
    """Refuses the place of a picture where a file lies that `save_figure` did not mark as its own.

    Raises:
      UserError: One does.
    """
    if output.is_file() and _MARK.encode() not in output.read_bytes():
        raise UserError(
            f"--output '{output}' is there already and no figure of evonorm_jax: name another "
            "file, or move that one."
        )


def _resolve_metric(metric: str, runs: Sequence[Run]) -> list[str]:
    """Returns the full names that one panel shows: `loss` -> [`train/loss`, `eval/loss`]."""
    known = sorted({name for run in runs for name in run.metric_names})
    names = [name for name in known if metric in (name, name.split("/")[-1])]
    if not names:
        raise UserError(
            f"No run has measured '{metric}'; the runs have {', '.join(known)} "
            "(the part after the slash alone shows training and evaluation together)."
        )
    return sorted(names, key=_is_train, reverse=True)  # evaluation is drawn last, on top


def _is_train(name: str) -> bool:
    return name.startswith("train/")


def _draw_panel(
    axis: Axes,
    metric: str,
    names: Sequence[str],
    runs: Sequence[Run],
    looks: Sequence[dict[str, Any]],
) -> None:
    for name in names:
        for index, run in enumerate(runs):
            if name in run.series:
                epochs, values = thin_curve(*run.series[name][1:])
                style = _line_style(name, looks[index], index, len(epochs))
                axis.plot(epochs, run.metrics.find(name).factor * values, **style)
    labels = (run.metrics.find(metric).axis_label for run in runs)
    axis.set_xlabel("epoch")
    axis.set_ylabel(", ".join(dict.fromkeys(labels)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    clean_axes(axis)


def thin_curve(
    x: np.ndarray, y: np.ndarray, num_bins: int = 1_000
) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the smallest and the largest value of each of many bins, which is all that can be seen.

    A panel is about 700 pixels wide; a million points of noise take 200 MB to draw.

    >>> thin_curve(np.arange(8), np.array([3, 1, 2, 9, 4, 4, 5, 0]), num_bins=2)
    (array([1, 3, 6, 7]), array([1, 9, 5, 0]))
    """
    if len(y) <= 2 * num_bins:
        return x, y
    size = -(-len(y) // num_bins)
    kept = []
    for start in range(0, len(y), size):
        part = y[start : start + size]
        kept += [start + np.argmin(part), start + np.argmax(part)]  # a NaN is both
    chosen = np.unique(kept)
    return x[chosen], y[chosen]


def _line_style(name: str, look: dict[str, Any], run_index: int, num_points: int) -> dict[str, Any]:
    """Draws training thin and pale, evaluation strong: the eye goes to what counts."""
    if _is_train(name):
        return {"color": look["color"], "linewidth": 1.0, "alpha": 0.45, "zorder": 2}
    averaged = name.startswith("eval_ema/")
    return {
        **look,
        "linewidth": 1.2 if averaged else 1.8,
        "markersize": 4,
        "markerfacecolor": "white" if averaged else look["color"],
        # About twelve markers on a line, whatever its length, staggered so that lines which
        # coincide still show each other's markers.
        "markevery": (run_index % max(1, num_points // 12), max(1, num_points // 12)),
        "zorder": 3,
    }


def _draw_legend(
    figure: Figure, names: Sequence[str], runs: Sequence[Run], looks: Sequence[dict[str, Any]]
) -> None:
    """Names the runs below the panels, then what pale, strong and hollow lines mean."""
    handles: list[Line2D] = []
    for label, look in zip(run_labels(runs), looks, strict=True):
        handles.append(Line2D([], [], label=label, **_line_style("eval/", look, 0, 0)))
    kinds = {"train": "training", "eval": "evaluation", "eval_ema": "evaluation, averaged weights"}
    shown = {name.split("/")[0] for name in names}
    if len(shown & kinds.keys()) > 1:
        for kind, label in kinds.items():
            if kind in shown:
                look = {"color": NEUTRAL, "marker": "o" if kind == "eval_ema" else "None"}
                style = _line_style(f"{kind}/", {**look, "linestyle": "-"}, 0, 0)
                handles.append(Line2D([], [], label=label, **style))
    legend = figure.legend(
        handles=handles,
        labels=["label"] * len(handles),  # matplotlib would leave out one such as "_baseline"
        loc="outside lower center",
        ncols=min(2 * len(figure.axes), len(handles)),  # a panel is as wide as two labels
        frameon=False,
        fontsize=9,
    )
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)  # names of folders: a $ in one is a $
        text.set_text(str(handle.get_label()))
