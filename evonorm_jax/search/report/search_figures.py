"""Figures of searches: scatter of the networks, progress, fates, Pareto front, winners."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evonorm_jax.analysis.style import COLOURS, clean_axes
from evonorm_jax.search.engine.verdicts import EVALUATION_FAILED, Reason, TrainingReason
from evonorm_jax.search.evolution.pareto import pareto_front
from evonorm_jax.search.report.search_runs import (
    MEASURES,
    SearchRun,
    network_label,
    reason_label,
    strategy_progress,
    total_fates,
)

_COLOURS = {
    "evolution": COLOURS[0],
    "random search": COLOURS[1],
    "random graphs": COLOURS[1],
    "mutations": COLOURS[0],
}
_DASHES = {"evolution": "-", "random search": "--"}  # both are seen where they coincide
_FRONT = COLOURS[1]
_CHANCE = 10.0  # the accuracy of guessing ten classes, in percent


def draw_scatter(runs: Sequence[SearchRun]) -> Figure:
    """Draws the accuracy on one network against another, for each pair (paper v1, Figure 4)."""
    figure, axes = _pair_axes(runs)
    for axis, (x, y) in axes:
        for origin, chosen in _by_origin(runs).items():
            if len(chosen):
                style: dict[str, Any] = {
                    "s": 9,
                    "alpha": 0.6,
                    "linewidths": 0,
                    "color": _COLOURS[origin],
                }
                axis.scatter(chosen[:, x], chosen[:, y], label=origin, **style)
        for line in (axis.axhline, axis.axvline):
            line(_CHANCE, color="#999999", linewidth=0.8, linestyle=":")
    _legend(figure, axes[0][0])
    return figure


def draw_front(runs: Sequence[SearchRun]) -> Figure:
    """Draws the scored layers of all searches, and those that none beats on all networks."""
    figure, axes = _pair_axes(runs)
    scores = np.concatenate([run.scores() for run in runs])
    numbers = [run.contents.entries.ids[place] for run in runs for place in run.scored]
    front = pareto_front(scores.tolist())
    for axis, (x, y) in axes:
        axis.scatter(scores[:, x], scores[:, y], s=7, linewidths=0, color="#bbbbbb", label="scored")
        points = scores[front][:, [x, y]]
        axis.scatter(points[:, 0], points[:, 1], s=22, color=_FRONT, label="Pareto front", zorder=3)
        if len(runs) > 1:  # each search counts its candidates from 0
            continue
        for index, point in zip(front, points, strict=True):
            label = str(numbers[index])
            axis.annotate(label, point, (3, 3), textcoords="offset points", fontsize=7)
    _legend(figure, axes[0][0])
    return figure


def draw_progress(runs: Sequence[SearchRun]) -> Figure:
    """Draws the best mean accuracy against candidates scored and training steps, by strategy.

    Several searches are shown by their mean, as far as the shortest goes, in the band from the
    worst to the best.
    """
    measures = ("scored", "steps")
    figure = Figure(figsize=(4.6 * len(measures), 3.9), layout="constrained")
    axes = figure.subplots(1, len(measures), sharey=True)
    for axis, measure in zip(axes, measures, strict=True):
        for strategy, costs, best in strategy_progress(runs, measure):
            label, colour = strategy, _COLOURS[strategy]
            if len(best) > 1:
                label += f", mean and range of {len(best)}"
                low, high = best.min(axis=0), best.max(axis=0)
                band = {"color": colour, "alpha": 0.15, "linewidth": 0, "step": "post"}
                axis.fill_between(costs, low, high, **band)
            mean = best.mean(axis=0)
            style = {"color": colour, "linestyle": _DASHES[strategy], "drawstyle": "steps-post"}
            axis.plot(costs, mean, label=label, **style)
        axis.set_xlabel(MEASURES[measure])
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        clean_axes(axis)
    axes[0].set_ylabel("best accuracy, mean over networks (%)")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def draw_fates(runs: Sequence[SearchRun]) -> Figure:
    """Draws what became of random graphs and of mutations: shares by reason of rejection."""
    totals = total_fates(runs)
    reasons = _ordered_reasons(set().union(*totals.values()))
    figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(reasons)), layout="constrained")
    axis = figure.subplots()
    height = 0.8 / len(totals)
    for index, (origin, counts) in enumerate(totals.items()):
        shares = [100 * counts[reason] / counts.total() for reason in reasons]
        places = np.arange(len(reasons)) + (index - (len(totals) - 1) / 2) * height
        label = f"{origin} ({counts.total():,})"
        bars = axis.barh(places, shares, height, color=_COLOURS[origin], label=label)
        labels = [f"{counts[reason]:,}" for reason in reasons]
        axis.bar_label(bars, labels, padding=3, fontsize=7)
    axis.set_yticks(range(len(reasons)), [reason_label(reason) for reason in reasons])
    axis.invert_yaxis()
    axis.set_xlabel("share of candidates (%)")
    axis.margins(x=0.1)
    clean_axes(axis)
    axis.legend(frameon=False, loc="lower right")
    return figure


def _ordered_reasons(reasons: set[str]) -> list[str]:
    """Orders reasons as the stages that give them, with "scored" at the end."""
    order = [*map(str, Reason), *map(str, TrainingReason), EVALUATION_FAILED]
    known = [reason for reason in order if reason in reasons]
    return [*known, *sorted(reasons - {*order, "scored"}), *({"scored"} & reasons)]


def _by_origin(runs: Sequence[SearchRun]) -> dict[str, np.ndarray]:
    """Returns the scores of random graphs and of mutations, `[candidates, networks]` each."""
    scores = np.concatenate([run.scores() for run in runs])
    origins = [run.contents.entries.is_random(place) for run in runs for place in run.scored]
    random = np.array(origins, dtype=bool)
    return {"random graphs": scores[random], "mutations": scores[~random]}


def _pair_axes(runs: Sequence[SearchRun]) -> tuple[Figure, list[tuple[Axes, tuple[int, int]]]]:
    """Makes a panel for each pair of networks."""
    names = runs[0].networks
    pairs = list(itertools.combinations(range(len(names)), 2))
    figure = Figure(figsize=(4.2 * len(pairs), 4.1), layout="constrained")
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axis, (x, y) in zip(axes, pairs, strict=True):
        axis.set_xlabel(f"{network_label(names[x])} accuracy (%)")
        axis.set_ylabel(f"{network_label(names[y])} accuracy (%)")
        clean_axes(axis)
    return figure, list(zip(axes, pairs, strict=True))


def _legend(figure: Figure, axis: Axes) -> None:
    """Puts the legend of one panel below the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


#: All figures of searches by file name, without its ending.
FIGURES: dict[str, Callable[[Sequence[SearchRun]], Figure]] = {
    "scatter": draw_scatter,
    "progress": draw_progress,
    "fates": draw_fates,
    "front": draw_front,
}


def figure_names(runs: Sequence[SearchRun]) -> list[str]:
    """Returns the names of the figures for which these searches have enough scores and networks."""
    if not any(run.scored for run in runs):
        return ["fates"]
    if len(runs[0].networks) == 1:
        return ["progress", "fates"]
    return list(FIGURES)
