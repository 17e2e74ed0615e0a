"""Results as bars: one row of panels per group, one panel per case.

A bar has the colour that its layer has in every figure, and is pale where it is a rival's.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from evonorm_jax.benchmarks.results import Report, number, time_unit
from evonorm_jax.benchmarks.timing import spread


def as_png(report: Report) -> bytes:
    """Draws the results of a report as bars and returns the picture as a PNG.

    Each group has a row of panels and each case a panel. A line below them says what whiskers and
    pale bars mean.
    """
    # Here, because matplotlib takes half a second, and not everyone draws.
    from matplotlib.figure import Figure

    from evonorm_jax.analysis.style import NEUTRAL

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
    if explanation := _explanation(report):
        figure.supxlabel(explanation, size=8, color=NEUTRAL)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    return buffer.getvalue()


def _explanation(report: Report) -> str:
    """Says what whiskers and pale bars mean, as far as there are any."""
    parts = []
    if any(len(report.samples(result)) > 1 for result in report.results):
        parts.append("bars: median, whiskers: from quartile to quartile")
    if any(not _is_ours(report, result.contender) for result in report.results):
        parts.append("pale: what ours is compared with")
    return "; ".join(parts)


def _is_ours(report: Report, name: str) -> bool:
    """Whether a contender is compared with others; where nothing is compared, all are ours."""
    return not report.comparisons or any(name == ours for ours, _ in report.comparisons)


def _draw_bars(axis: Any, report: Report, group: str, case: str, names: Sequence[str]) -> None:
    from evonorm_jax.analysis.style import NEUTRAL, colour_in_text

    measured = [
        (place, name, spread(report.samples(result)))
        for place, name in enumerate(names)
        if (result := report.find(group, case, name)) is not None and report.samples(result)
    ]
    factor, unit = 1.0, report.headline
    if unit is None:
        factor, unit = time_unit([time.median for _, _, time in measured])
    for place, name, time in measured:
        axis.barh(
            place,
            factor * time.median,
            # Ours strong, rivals pale: the eye goes to what is compared.
            color=colour_in_text(name) or NEUTRAL,
            alpha=1.0 if _is_ours(report, name) else 0.35,
        )
        axis.errorbar(
            factor * time.median,
            place,
            xerr=[[factor * (time.median - time.low)], [factor * (time.high - time.median)]],
            ecolor="black",
            elinewidth=0.9,
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
