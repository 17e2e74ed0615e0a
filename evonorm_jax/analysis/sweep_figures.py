"""The two figures of a sweep, as the paper draws those of batch sizes."""

from __future__ import annotations

import math
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evonorm_jax.analysis import paper
from evonorm_jax.analysis.curves import save_figure
from evonorm_jax.analysis.labels import dataset_label, network_label
from evonorm_jax.analysis.runs import Run
from evonorm_jax.analysis.style import NEUTRAL, clean_axes, layer_style
from evonorm_jax.analysis.sweep_files import run_layer
from evonorm_jax.analysis.sweeps import IMAGES_PER_WORKER, Sweep
from evonorm_jax.errors import UserError

_COLUMNS = 3  # panels beside each other in the learning curves
_LETTERS = 11  # that fit into an inch of a title
_FIELDS_IN_TITLES = 2  # of a network; the report beside the figure has all of them
_FEW_POINTS = 3  # of a curve: without markers they would be a stroke

CURVES_DPI = 110  # of the learning curves: six panels have 200 kB instead of 300


def plot_accuracy(sweep: Sweep, output: str | os.PathLike[str]) -> Path:
    """Writes the figure of `draw_accuracy`.

    Raises:
      UserError: No run has ended yet, or the ending of `output` names no image format.
    """
    return save_figure(draw_accuracy(sweep), output)


def draw_accuracy(sweep: Sweep) -> Figure:
    """Draws the main metric against the axis: a line for each layer, bars for the spread.

    The bars are one sample standard deviation over the seeds. Hollow markers are means over fewer
    seeds than the sweep has. The paper's own points lie pale behind, where its setting is the same.
    A sweep of one size is drawn by layer, with a pale dot for every seed.

    Raises:
      UserError: No run has ended yet.
    """
    if all(run.score is None for run in sweep.runs):
        raise UserError("No run of this sweep has ended yet, so there is nothing to draw.")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if len(sweep.sizes) > 1:
        handles = _draw_against_size(axis, sweep)
    else:
        _draw_by_layer(axis, sweep)
        handles = []  # the layers stand below the axis
    for value in sorted(set(sweep.values_of_real_data(sweep.metrics.main_name)))[:1]:
        line: dict[str, Any] = {"color": NEUTRAL, "linestyle": ":", "linewidth": 1.2}
        axis.axhline(value, zorder=1, **line)
        handles.append(Line2D([], [], label="held-out real images", **line))
    if len(sweep.seeds) > 1:
        bars: dict[str, Any] = {"color": NEUTRAL, "linestyle": "", "marker": "|", "markersize": 10}
        label = f"bars: ± one standard deviation of {len(sweep.seeds)} seeds"
        handles.append(Line2D([], [], label=label, **bars))
    if not sweep.complete:
        hollow: dict[str, Any] = {
            "marker": "o",
            "markerfacecolor": "white",
            "color": "#666666",
            "linestyle": "",
        }
        handles.append(Line2D([], [], label="some seeds missing", **hollow))
    axis.set_ylabel(sweep.metrics.main.axis_label)
    axis.set_title(_title(sweep, figure), fontsize=10)
    clean_axes(axis)
    if handles:
        axis.legend(handles=handles, frameon=False, fontsize=9)
    return figure


def _draw_by_layer(axis: Axes, sweep: Sweep) -> None:
    """Draws mean and bar of every layer beside each other, and its seeds as dots behind them."""
    (size,) = sweep.sizes
    for place, layer in enumerate(sweep.layers):
        style = layer_style(layer, sweep.layers)
        _draw_layer(axis, sweep, layer, style, place=place)
        values = sweep.values(layer, size)
        axis.plot([place + 0.15] * len(values), values, ".", color=style["color"], alpha=0.5)
    axis.set_xticks(range(len(sweep.layers)), list(map(sweep.layer_label, sweep.layers)))
    axis.tick_params(axis="x", labelsize=9 if len(sweep.layers) <= 5 else 7)
    axis.set_xlim(-0.5, len(sweep.layers) - 0.5)


def _draw_against_size(axis: Axes, sweep: Sweep) -> list[Line2D]:
    """Draws a line for each layer, and the paper's behind it; returns what the legend shows."""
    handles, drawn_paper = [], False
    published = paper_points(sweep)
    for index, layer in enumerate(sweep.layers):
        style = layer_style(layer, sweep.layers)
        name = layer.partition(",")[0]
        if name in published:
            sizes, values = paper.BATCH_SIZE_IMAGES_PER_WORKER, published[name]
            axis.plot(sizes, values, color=style["color"], alpha=0.3, linewidth=4, zorder=1)
            drawn_paper = True
        if _draw_layer(axis, sweep, layer, style, shift=index - (len(sweep.layers) - 1) / 2):
            handles.append(Line2D([], [], label=sweep.layer_label(layer), **style))
    if drawn_paper:
        handles.append(Line2D([], [], color="#888888", alpha=0.5, linewidth=4, label="the paper"))
    axis.set_xscale("log", base=2)
    axis.set_xticks(sweep.sizes, [f"{size:,}" for size in sweep.sizes])
    axis.minorticks_off()
    if sweep.axis == IMAGES_PER_WORKER:
        axis.invert_xaxis()
    axis.set_xlabel(sweep.axis.label)
    return handles


def plot_learning_curves(sweep: Sweep, output: str | os.PathLike[str]) -> Path:
    """Writes the figure of `draw_learning_curves`.

    Raises:
      UserError: No run has been evaluated yet, or the ending of `output` names no image format.
    """
    return save_figure(draw_learning_curves(sweep), output, dpi=CURVES_DPI)


def draw_learning_curves(sweep: Sweep) -> Figure:
    """Draws the main metric against epochs, one panel for each size, one line for each layer.

    Lines are means over the seeds, bands reach from the lowest to the highest of them.

    Raises:
      UserError: No run has been evaluated yet.
    """
    if not any(run.metrics.main_metric in run.series for run in sweep.curves):
        raise UserError("No run of this sweep has been evaluated yet, so there are no curves.")
    rows = math.ceil(len(sweep.sizes) / _COLUMNS)
    columns = math.ceil(len(sweep.sizes) / rows)
    width = max(3.4 * columns, 5.0)  # the legend needs as much
    figure = Figure(figsize=(width, 2.7 * rows + 0.6), layout="constrained")
    same_length = sweep.axis == IMAGES_PER_WORKER
    axes = list(figure.subplots(rows, columns, sharex=same_length, sharey=True, squeeze=False).flat)
    for axis, size in zip(axes, sweep.sizes, strict=False):
        for layer in sweep.layers:
            runs = [run for run in sweep.curves if _is(run, sweep, layer, size)]
            _draw_curves(axis, runs, _curve_style(sweep, layer))
        axis.set_title(f"{size:,} {sweep.axis.label}", fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
        axis.set_xlim(left=0)
        axis.label_outer()
        clean_axes(axis)
    for axis in axes[len(sweep.sizes) :]:
        axis.set_visible(False)
        axes[axes.index(axis) - columns].tick_params(labelbottom=True)  # nothing is below it
    figure.supylabel(sweep.metrics.main.axis_label, fontsize=10)
    seeds = len(sweep.seeds)
    spread = f"\nmean of {seeds} seeds, in the band from the lowest to the highest"
    figure.suptitle(_title(sweep, figure) + (spread if seeds > 1 else ""), fontsize=10)
    handles = [
        Line2D([], [], label=sweep.layer_label(layer), **_curve_style(sweep, layer))
        for layer in sweep.layers
    ]
    beside = min(len(handles), 3 * columns)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=beside, frameon=False, fontsize=9
    )
    return figure


def paper_points(sweep: Sweep) -> dict[str, tuple[float, ...]]:
    """Returns the paper's numbers by layer where the sweep has its setting, else nothing."""
    setting = sweep.setting
    same = (
        sweep.has_papers_metric
        and setting.dataset == "imagenet2012"
        and setting.source != "fake"
        and paper.BATCH_SIZE_WORKERS.get(setting.model) == setting.num_workers
    )
    return dict(paper.BATCH_SIZE[setting.model]) if same else {}


def setting_line(sweep: Sweep, *, most_fields: int = 8) -> str:
    """Says in one line what the runs share; of more fields of the network, how many there are."""
    setting = sweep.setting
    workers = "1 worker" if setting.num_workers == 1 else f"{setting.num_workers} workers"
    if setting.batch_size:
        workers = f"{setting.batch_size:,} images a step"
    lengths = sorted({run.num_steps for run in sweep.runs}, reverse=True)
    length = " and ".join(f"{steps:,}" for steps in lengths) + " steps"
    if setting.num_epochs:
        length = f"{setting.num_epochs:g} epochs"
    name, *pairs = re.split(r",(?=\w+=)", setting.model)  # a value may hold commas
    fields = dict(pair.partition("=")[::2] for pair in pairs)
    model = network_label(name, fields, most_fields=most_fields)
    data = dataset_label(setting.dataset, setting.source)
    return f"{data}, {model}, {workers}, {length}"


def _curve_style(sweep: Sweep, layer: str) -> dict[str, Any]:
    """Returns colour and dashes of a layer; without markers, curves have too many points."""
    return {**layer_style(layer, sweep.layers), "marker": "None", "linewidth": 1.5}


def _title(sweep: Sweep, figure: Figure) -> str:
    """Says what the runs share, in lines that are no longer than the figure is wide."""
    line = setting_line(sweep, most_fields=_FIELDS_IN_TITLES)
    # Lines end behind a comma: "1 worker" stays together.
    parts = ", ".join(part.replace(" ", "\xa0") for part in line.split(", "))
    lines = textwrap.fill(parts[:1].upper() + parts[1:], int(_LETTERS * figure.get_figwidth()))
    return lines.replace("\xa0", " ")


def _draw_layer(
    axis: Axes,
    sweep: Sweep,
    layer: str,
    style: dict[str, Any],
    *,
    shift: float = 0.0,
    place: float | None = None,
) -> bool:
    """Draws one line with its error bars; returns False if no run of the layer has ended.

    The points are at their sizes, a little aside by `shift`, or all at `place`.
    """
    xs, means = [], []
    for size in sweep.sizes:
        statistic = sweep.statistic(layer, size)
        if statistic.mean is None:
            continue
        # Beside each other, so that bars of equal height can be told apart.
        xs.append(size * 2.0 ** (-0.03 * shift) if place is None else place)
        means.append(statistic.mean)
        face = style["color"] if statistic.complete else "white"
        axis.errorbar(
            xs[-1],
            means[-1],
            yerr=statistic.spread or 0.0,
            markerfacecolor=face,
            markersize=5,
            capsize=2,
            elinewidth=1,
            zorder=3,
            **style,
        )
    axis.plot(
        xs, means, color=style["color"], linestyle=style["linestyle"], linewidth=1.6, zorder=2
    )
    return bool(means)


def _is(run: Run, sweep: Sweep, layer: str, size: int) -> bool:
    return (
        run_layer(run.config) == layer
        and run.config[sweep.axis.field] == size
        and run.metrics.main_metric in run.series
    )


def _draw_curves(axis: Axes, runs: list[Run], style: dict[str, Any]) -> None:
    """Draws the mean where all runs have been evaluated, and how far they are apart."""
    if not runs:
        return
    series = [run.series[run.metrics.main_metric] for run in runs]
    curves = [dict(zip(epochs, values, strict=True)) for _, epochs, values in series]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
    values = runs[0].metrics.main.factor * values
    few: dict[str, Any] = {"marker": "o", "markersize": 4, "clip_on": False}
    axis.plot(epochs, values.mean(0), **{**style, **(few if len(epochs) <= _FEW_POINTS else {})})
    low, high = values.min(0), values.max(0)
    axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
