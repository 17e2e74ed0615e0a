"""Results as bars: one row of panels per group, one panel per case."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from evonorm_jax.benchmarks.results import Report, number, time_unit
from evonorm_jax.benchmarks.timing import spread


def as_png(report: Report) -> bytes:
    """Draws the results of a report as bars and returns the picture as a PNG.

    Each group has a row of panels and each case a panel. Whiskers go from quartile to quartile.
    """
    from matplotlib.figure import Figure  # half a second; not everyone draws

    groups = report.groups()
    width = max(len(report.cases(group)) for group in groups)
    names = {group: report.contenders(group) for group in groups}
    heights = [0.9 + 0.24 * len(names[group]) for group in groups]
    longest = max(len(name) for contenders in names.values() for name in contenders)
    labels = max(2.6, 0.07 * longest)  # inches; a letter of the names is 0.07 wide
    figure = Figure(figsize=(labels + 3.0 * width, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(groups), width, squeeze=False, sharey="row", height_ratios=heights)
    for row, group in zip(axes, groups, strict=True):
        cases = report.cases(group)
        for axis in row[len(cases) :]:
            axis.set_visible(False)
        for axis, case in zip(row, cases, strict=False):
            _draw_bars(axis, report, group, case, names[group])
    figure.suptitle(report.title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    return buffer.getvalue()


def _draw_bars(axis: Any, report: Report, group: str, case: str, names: Sequence[str]) -> None:
    measured = [
        (place, name, spread(report.samples(result)))
        for place, name in enumerate(names)
        if (result := report.find(group, case, name)) is not None and report.samples(result)
    ]
    factor, unit = 1.0, report.headline
    if unit is None:
        factor, unit = time_unit([time.median for _, _, time in measured])
    for place, name, time in measured:
        # Ours in colour, rivals in grey: the eye goes to what is compared.
        ours = any(name == contender for contender, _ in report.comparisons)
        axis.barh(
            place,
            factor * time.median,
            xerr=[[factor * (time.median - time.low)], [factor * (time.high - time.median)]],
            color="#0072B2" if ours else "#B0B0B0",
            error_kw={"linewidth": 0.9},
        )
        axis.text(
            factor * time.high, place, f" {number(factor * time.median)}", va="center", size=7
        )
    title = case if case == group else f"{case}, {group}"
    axis.set_title(textwrap.fill(title, 40), size=9)  # a panel is as wide as 42 letters
    axis.set_xlabel(unit)
    axis.set_yticks(range(len(names)), names, size=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
