"""The tables of a sweep's report, in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from evonorm_jax.analysis import paper
from evonorm_jax.analysis.sweep_figures import paper_points
from evonorm_jax.analysis.sweeps import IMAGES_PER_WORKER, Difference, Statistic, Sweep
from evonorm_jax.metrics import Metric

# Updates from which on layers are compared. EvoNorm-S0 lags early: in a ResNet-56 on CIFAR-10 it
# is 13.9 points below BN-ReLU after 400 updates and 0.5 below after 5,000, each with the whole
# schedule (results/cifar10_jpeg_resnet56_proxy). The paper's shortest training is 5,000 steps.
_FAIR_STEPS = 5000
#: How a mean of training losses is written.
TRAIN_LOSS = Metric("training loss", digits=3)
#: What stands in place of a number that nothing has given yet.
NOT_RUN = "not run"
# Layers without batch statistics, of which the paper says that images per worker do not matter.
_BATCH_INDEPENDENT = ("gn_relu", "gn_swish", "frn", "evonorm_s0", "evonorm_s1", "evonorm_s2")


def accuracy_table(sweep: Sweep) -> str:
    """Returns layers against sizes; what is incomplete says how many seeds there are."""
    rows = [
        [sweep.layer_label(layer)]
        + [
            format_statistic(sweep.statistic(layer, size), sweep.metrics.main)
            for size in sweep.sizes
        ]
        for layer in sweep.layers
    ]
    for name, values in paper_points(sweep).items():
        if layer := sweep.find(name):
            published = dict(zip(paper.BATCH_SIZE_IMAGES_PER_WORKER, values, strict=True))
            cells = [f"{published[size]:.1f}" if size in published else "" for size in sweep.sizes]
            rows.append([f"{sweep.layer_label(layer)}, the paper", *cells])
    return markdown_table(_header(sweep), rows)


def difference_table(sweep: Sweep) -> str:
    """Returns each layer less BN-ReLU by size; nothing where there is no BN-ReLU."""
    baseline = sweep.find("bn_relu")
    if baseline is None:
        return ""
    rows = [
        [sweep.layer_label(layer)]
        + [
            format_difference(sweep.difference((layer, s), (baseline, s)), sweep.metrics.main)
            for s in sweep.sizes
        ]
        for layer in sweep.layers
        if layer != baseline
    ]
    return markdown_table(_header(sweep), rows)


def metric_table(sweep: Sweep) -> str:
    """Returns layers, at every size, against the metrics that the task declares for it.

    The last row has what real data reach, where the runs have measured that. There is no table
    where the task declares no metrics.
    """
    names = sweep.tabled
    if not names:
        return ""
    several = len(sweep.sizes) > 1
    metrics = [sweep.metrics.find(name) for name in names]
    rows = [
        [
            sweep.layer_label(layer),
            *([f"{size:,}"] if several else []),
            *(
                format_statistic(sweep.statistic(layer, size, name), metric)
                for name, metric in zip(names, metrics, strict=True)
            ),
        ]
        for layer in sweep.layers
        for size in sweep.sizes
    ]
    real = [
        _format_range(sweep.values_of_real_data(name), metric)
        for name, metric in zip(names, metrics, strict=True)
    ]
    if any(real):
        rows.append(["real images", *([""] if several else []), *real])
    axis = [sweep.axis.label] if several else []
    return markdown_table(["layer", *axis, *(metric.column for metric in metrics)], rows)


def training_table(sweep: Sweep) -> str:
    """Returns layers, at the largest size, against loss in training and final main metric.

    There is no table where no run has logged a training loss.
    """
    size = sweep.sizes[0]
    rows = [
        [
            sweep.layer_label(layer),
            format_statistic(loss, TRAIN_LOSS),
            format_statistic(sweep.statistic(layer, size), sweep.metrics.main),
        ]
        for layer in sweep.layers
        if (loss := sweep.train_loss(layer, size)).mean is not None
    ]
    header = ["layer", TRAIN_LOSS.label, sweep.metrics.main.column]
    return markdown_table(header, rows) if rows else ""


def counts_line(sweep: Sweep) -> str:
    """Says how many examples the values of `metric_table` are of; "" where no run says so.

    Such as "1,437 samples and 360 held-out real images".
    """
    parts = []
    for name in sweep.metrics.counts:
        counts = {run.others[name] for run in sweep.runs if name in run.others}
        if counts:
            numbers = " or ".join(f"{count:,.0f}" for count in sorted(counts))
            parts.append(f"{numbers} {sweep.metrics.find(name).label}")
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _header(sweep: Sweep) -> list[str]:
    if sweep.axis == IMAGES_PER_WORKER:
        return ["layer", *map(str, sweep.sizes)]
    return ["layer", *(f"{size:,} {sweep.axis.label}" for size in sweep.sizes)]


def verdict_table(sweep: Sweep) -> str:
    """Returns the paper's claims about images per worker beside what these runs say of them."""
    large, small = sweep.sizes[0], sweep.sizes[-1]
    sign, better = (1, "above") if sweep.metrics.main.higher_is_better else (-1, "below")
    rows = []

    def add(
        claim: str,
        difference: Difference | None,
        holds: Callable[[Difference], bool],
        untested: str = "",
    ) -> None:
        gain = difference and dataclasses.replace(difference, value=sign * difference.value)
        verdict = _verdict(gain, holds)
        if untested and verdict.startswith("disagrees"):
            verdict = untested
        rows.append([claim, format_difference(difference, sweep.metrics.main), verdict])

    if bn := sweep.find("bn_relu"):
        change = sweep.difference((bn, small), (bn, large))
        add(f"BN-ReLU loses from {large} to {small} images per worker", change, _is_fall)
    for name in _BATCH_INDEPENDENT:
        if layer := sweep.find(name):
            change = sweep.difference((layer, small), (layer, large))
            claim = f"{sweep.layer_label(layer)} loses nothing from {large} to {small}"
            add(claim, change, lambda d: not _is_fall(d))
    if s0 := sweep.find("evonorm_s0"):
        for other in filter(None, map(sweep.find, ("bn_relu", "gn_relu"))):
            for size in (small, large):
                claim = f"EvoNorm-S0 is {better} {sweep.layer_label(other)} at {size}"
                change = sweep.difference((s0, size), (other, size))
                add(claim, change, _is_gain, _too_short(sweep, s0, size))
    if not rows:
        return "The paper says nothing of these layers."
    here = "here" + in_unit(sweep.metrics.main, "points").replace(" in", ",")
    return markdown_table(["the paper's claim", here, "verdict"], rows)


def _too_short(sweep: Sweep, layer: str, size: int) -> str:
    """Returns the verdict on a layer that learns more slowly at first; "" for long runs."""
    steps = max(
        (run.steps for run in sweep.runs if (run.layer, sweep.size(run)) == (layer, size)),
        default=0,
    )
    return f"not tested: {steps:,} updates" if steps < _FAIR_STEPS else ""


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Writes a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def in_unit(metric: Metric, percent: str) -> str:
    """Returns " in UNIT", with the given word for percent; "" for a plain number."""
    unit = percent if metric.unit == "%" else metric.unit
    return f" in {unit}" if unit else ""


def format_statistic(statistic: Statistic, metric: Metric) -> str:
    """Writes mean ± sample standard deviation, and how many seeds have ended if not all have."""
    if statistic.mean is None:
        return f"0 of {statistic.expected} seeds"
    text = f"{statistic.mean:.{metric.digits}f}"
    if statistic.spread is not None:
        text += f" ± {statistic.spread:.{metric.digits}f}"
    if not statistic.complete:
        text += f" ({statistic.finished} of {statistic.expected} seeds)"
    return text


def format_seeds(number: int) -> str:
    """Writes a number of seeds."""
    return f"{number} seed{'s' if number != 1 else ''}"


def format_difference(difference: Difference | None, metric: Metric) -> str:
    """Writes a difference ± its standard error, with its sign; "not run" for None."""
    if difference is None:
        return NOT_RUN
    error = "" if difference.error is None else f" ± {difference.error:.{metric.digits}f}"
    return f"{difference.value:+.{metric.digits}f}{error}"


def _format_range(values: list[float], metric: Metric) -> str:
    """Writes the lowest and the highest value, or one number where they look the same."""
    ends = [f"{end:.{metric.digits}f}" for end in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(ends))


def _is_fall(difference: Difference) -> bool:
    return difference.value < 0 and difference.beyond_spread is not False


def _is_gain(difference: Difference) -> bool:
    return difference.value > 0 and difference.beyond_spread is not False


def _verdict(difference: Difference | None, holds: Callable[[Difference], bool]) -> str:
    if difference is None:
        return "open"
    if difference.error is None:
        return ("agrees" if holds(difference) else "disagrees") + ", one seed"
    if holds(difference):
        return "agrees"
    return "disagrees" if difference.beyond_spread else "within the spread"
