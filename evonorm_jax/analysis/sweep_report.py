"""A batch-size sweep in words and tables: Markdown with its settings, numbers and a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from evonorm_jax.analysis import paper
from evonorm_jax.analysis.sweep_figures import (
    paper_points,
    plot_accuracy,
    plot_learning_curves,
    setting_line,
)
from evonorm_jax.analysis.sweeps import (
    RESULTS_FILE,
    Difference,
    Statistic,
    Sweep,
    load_sweep,
    read_history,
    write_results,
)

REPORT_FILE = "README.md"
ACCURACY_FILE = "accuracy.png"
CURVES_FILE = "learning_curves.png"

# Layers without batch statistics, of which the paper says that images per worker do not matter.
_BATCH_INDEPENDENT = ("gn_relu", "gn_swish", "frn", "evonorm_s0", "evonorm_s1", "evonorm_s2")


def write_report(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Path]:
    """Reads the runs below `path` and writes report, table and figures into the folder `output`.

    Raises:
      UserError: there are no runs of one sweep, or none has ended.
    """
    path, output = Path(path), Path(output)
    sweep = load_sweep(path)
    files = [
        plot_accuracy(sweep, output / ACCURACY_FILE),
        plot_learning_curves(sweep, output / CURVES_FILE),
        output / RESULTS_FILE,
        output / REPORT_FILE,
    ]
    write_results(sweep, output / RESULTS_FILE)
    (output / REPORT_FILE).write_text(report(sweep, read_history(path)), encoding="utf-8")
    return files


def report(sweep: Sweep, history: list[dict]) -> str:
    """The whole report, as Markdown."""
    parts = [
        f"# Accuracy against images per worker: {sweep.setting.dataset}",
        f"{setting_line(sweep)}. Top-1 accuracy in percent after the last epoch, mean ± sample "
        f"standard deviation over {len(sweep.seeds)} seed(s).{_resolution(sweep)}",
        accuracy_table(sweep),
        f"![accuracy]({ACCURACY_FILE})",
    ]
    if sweep.find("bn_relu"):
        parts += ["Difference to BN-ReLU at the same size, in points:", difference_table(sweep)]
    parts += [
        "## What agrees with the paper",
        verdict_table(sweep),
        "A difference counts where it is more than twice its standard error over the seeds, ± in "
        "the table. The paper makes its claims for ImageNet (arXiv v1, Table 3, one run each).",
        "## How it was made",
        provenance(sweep, history),
        f"![learning curves]({CURVES_FILE})",
        f"Every run is a row of [{RESULTS_FILE}]({RESULTS_FILE}).",
    ]
    return "\n\n".join(parts) + "\n"


def accuracy_table(sweep: Sweep) -> str:
    """Layers against sizes; what is incomplete says how many seeds there are."""
    rows = [
        [sweep.layer_label(layer)]
        + [_format_statistic(sweep.statistic(layer, size)) for size in sweep.sizes]
        for layer in sweep.layers
    ]
    for name, values in paper_points(sweep).items():
        if layer := sweep.find(name):
            published = dict(zip(paper.BATCH_SIZE_IMAGES_PER_WORKER, values, strict=True))
            cells = [f"{published[size]:.1f}" if size in published else "" for size in sweep.sizes]
            rows.append([f"{sweep.layer_label(layer)}, the paper", *cells])
    return markdown_table(["layer", *map(str, sweep.sizes)], rows)


def difference_table(sweep: Sweep) -> str:
    """Each layer less BN-ReLU, by size."""
    baseline = sweep.find("bn_relu")
    rows = [
        [sweep.layer_label(layer)]
        + [_format_difference(sweep.difference((layer, s), (baseline, s))) for s in sweep.sizes]
        for layer in sweep.layers
        if layer != baseline
    ]
    return markdown_table(["layer", *map(str, sweep.sizes)], rows)


def verdict_table(sweep: Sweep) -> str:
    """The paper's claims about images per worker beside what these runs say of them."""
    large, small = sweep.sizes[0], sweep.sizes[-1]
    rows = []

    def add(claim: str, difference: Difference | None, holds: Callable[[Difference], bool]) -> None:
        rows.append([claim, _format_difference(difference), _verdict(difference, holds)])

    if bn := sweep.find("bn_relu"):
        change = sweep.difference((bn, small), (bn, large))
        add(f"BN-ReLU loses from {large} to {small} images per worker", change, _is_fall)
    for name in _BATCH_INDEPENDENT:
        if layer := sweep.find(name):
            change = sweep.difference((layer, small), (layer, large))
            claim = f"{sweep.layer_label(layer)} loses nothing from {large} to {small}"
            add(claim, change, lambda d: not _is_fall(d))
    s0 = sweep.find("evonorm_s0")
    if s0 and bn:
        for size in (small, large):
            claim = f"EvoNorm-S0 is above BN-ReLU at {size}"
            add(claim, sweep.difference((s0, size), (bn, size)), _is_gain)
    if not rows:
        return "The paper says nothing of these layers."
    return markdown_table(["the paper's claim", "here, points", "verdict"], rows)


def provenance(sweep: Sweep, history: list[dict]) -> str:
    """Config, commands, commits, hardware and time, as the runs and the sweep noted them."""
    starts = [event for event in history if event["event"] == "start"]
    lines = []
    if starts:
        commands = dict.fromkeys(_command_line(event["command"]) for event in starts)
        lines.append("```bash\n" + "\n".join(commands) + "\n```\n")
        lines.append(f"- config: `{starts[-1]['config']}`")
    lines.append(f"- date: {_distinct(run.date for run in sweep.runs)}")
    lines.append(f"- commit: {_distinct(short_commit(run.commit) for run in sweep.runs)}")
    lines.append(f"- hardware: {_distinct(run.hardware for run in sweep.runs)}")
    training = sum(run.train_seconds or 0.0 for run in sweep.runs)
    time = f"{training / 60:.1f} min of training in {len(sweep.runs)} runs"
    if seconds := [event["seconds"] for event in history if event["event"] == "end"]:
        time += f"; {sum(seconds) / 60:.1f} min in all, {starts[-1]['jobs']} at a time"
    lines.append(f"- time: {time}")
    return "\n".join(lines)


def short_commit(commit: str) -> str:
    """The first seven digits, and whether the tree had changes.

    >>> short_commit("eb0fffd859a2b874ca9a6a6a47aa2c0ac4634ebf+changes")
    '`eb0fffd+changes`'
    """
    return f"`{commit[:7]}{commit[40:]}`" if commit else ""


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value})) or "unknown"


def _command_line(command: list[str]) -> str:
    return " ".join(["python", *command[1:]])


def _resolution(sweep: Sweep) -> str:
    counts = {run.examples for run in sweep.runs if run.examples}
    if len(counts) != 1:
        return ""
    (examples,) = counts
    return f" One of the {examples:,} test images is {100 / examples:.2f} points."


def _format_statistic(statistic: Statistic) -> str:
    if statistic.mean is None:
        return f"0 of {statistic.expected} seeds"
    text = f"{statistic.mean:.1f}"
    if statistic.spread is not None:
        text += f" ± {statistic.spread:.1f}"
    if not statistic.complete:
        text += f" ({statistic.finished} of {statistic.expected} seeds)"
    return text


def _format_difference(difference: Difference | None) -> str:
    if difference is None:
        return "not run"
    error = "" if difference.error is None else f" ± {difference.error:.1f}"
    return f"{difference.value:+.1f}{error}"


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
