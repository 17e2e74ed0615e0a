"""Figure of how well proxies rank layers: their scores against accuracy after long training."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from evonorm_jax.analysis.style import COLOURS, MARKERS, clean_axes
from evonorm_jax.search.report.ranking_tables import CHANCE, RankedScores, spearman
from evonorm_jax.search.run.proxy_ranking import LONG, PROTOCOLS

_ORIGINS = {
    "known": "known layers",
    "plain": "activations alone",
    "winner": "best of the tiny searches",
    "random": "random graphs",
    "child": "mutations of known layers",
}


def draw_ranking(scores: RankedScores) -> Figure:
    """Draws a panel for each proxy with a point for each layer."""
    names = scores.proxies
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    long = scores.values[LONG]
    for axis, name in zip(panels, names, strict=False):
        values = scores.values[name]
        for index, (origin, label) in enumerate(_ORIGINS.items()):
            chosen = [i for i, layer in enumerate(scores.layers) if layer.origin == origin]
            axis.scatter(
                [values[i] for i in chosen],
                [long[i] for i in chosen],
                s=20,
                color=COLOURS[index],
                marker=MARKERS[index],
                label=label,
                linewidths=0,
            )
        for line in (axis.axhline, axis.axvline):
            line(CHANCE, color="#999999", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name}: rank correlation {spearman(values, long):.2f}", fontsize=9)
        label = textwrap.fill(f"accuracy (%), {PROTOCOLS[name].about}", width=52)
        axis.set_xlabel(label, fontsize=7)
        clean_axes(axis)
    for axis in panels[len(names) :]:
        axis.set_visible(False)
    figure.supylabel("accuracy after long training (%)", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
