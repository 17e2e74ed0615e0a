"""A sweep in words and tables: Markdown with its settings, numbers and a verdict."""

from __future__ import annotations

import ast
import dataclasses
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from evonorm_jax.analysis import paper
from evonorm_jax.analysis.sweep_figures import (
    paper_points,
    plot_accuracy,
    plot_learning_curves,
    setting_line,
)
from evonorm_jax.analysis.sweep_files import read_history
from evonorm_jax.analysis.sweep_results import RESULTS_FILE, write_results
from evonorm_jax.analysis.sweeps import (
    IMAGES_PER_WORKER,
    Difference,
    Statistic,
    Sweep,
    load_sweep,
)
from evonorm_jax.metrics import Metric
from evonorm_jax.run_files import report_path, write_report

ACCURACY_FILE = "accuracy.png"
CURVES_FILE = "learning_curves.png"

_SMALL_SIZES = "Epochs are equal, so small sizes have more updates. "
# Updates from which on layers are compared. EvoNorm-S0 lags early: in a ResNet-56 on CIFAR-10 it
# is 13.9 points below BN-ReLU after 400 updates and 0.5 below after 5,000, each with the whole
# schedule (results/cifar10_jpeg_resnet56_proxy). The paper's shortest training is 5,000 steps.
_FAIR_STEPS = 5000
# Layers without batch statistics, of which the paper says that images per worker do not matter.
_BATCH_INDEPENDENT = ("gn_relu", "gn_swish", "frn", "evonorm_s0", "evonorm_s1", "evonorm_s2")


def write_sweep_report(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Path]:
    """Reads the runs below `path` and writes report, table and figures into the folder `output`.

    Raises:
      UserError: There are no runs of one sweep, or none has ended, or the report would take the
        place of another file.
    """
    path, output = Path(path), Path(output)
    sweep = load_sweep(path)
    text = report(sweep, read_history(path))
    readme = report_path(output, text.partition("\n")[0])
    files = [
        plot_accuracy(sweep, output / ACCURACY_FILE),
        plot_learning_curves(sweep, output / CURVES_FILE),
        output / RESULTS_FILE,
        readme,
    ]
    write_results(sweep, output / RESULTS_FILE)
    write_report(readme, text)
    return files


def report(sweep: Sweep, history: list[dict[str, Any]]) -> str:
    """Returns the whole report as Markdown."""
    metric = sweep.metrics.main
    against = f"against {sweep.axis.label}" if len(sweep.sizes) > 1 else "by layer"
    end = "epoch" if sweep.setting.num_epochs else "step"
    parts = [
        f"# {_capital(metric.heading)} {against}: {sweep.setting.dataset}",
        f"{setting_line(sweep)}. {_capital(metric.label)}{_in_unit(metric, 'percent')} after the "
        f"last {end}, mean ± sample standard deviation over {_count(len(sweep.seeds), 'seed')}."
        f"{_resolution(sweep)}",
        accuracy_table(sweep),
        f"![{metric.heading}]({ACCURACY_FILE})",
    ]
    if differences := difference_table(sweep):
        unit = _in_unit(metric, "points").replace(" in", ", in")
        size = "size" if sweep.axis == IMAGES_PER_WORKER else "length"
        parts += [f"Difference to BN-ReLU at the same {size}{unit}:", differences]
    if sweep.axis == IMAGES_PER_WORKER and len(sweep.sizes) > 1:
        updates = "" if sweep.setting.batch_size else _SMALL_SIZES
        parts += [
            "## What agrees with the paper",
            verdict_table(sweep),
            "A layer loses, or is above, where the difference is more than twice its standard "
            f"error over the seeds (± in the table). {updates}The paper makes its claims for "
            "ImageNet (arXiv v1, Table 3).",
        ]
    parts += [
        *_remarks(history),
        "## How it was made",
        provenance(sweep, history),
        f"![learning curves]({CURVES_FILE})",
        f"Every run is a row of [{RESULTS_FILE}]({RESULTS_FILE}).",
    ]
    return "\n\n".join(parts) + "\n"


def accuracy_table(sweep: Sweep) -> str:
    """Returns layers against sizes; what is incomplete says how many seeds there are."""
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
    return markdown_table(_header(sweep), rows)


def difference_table(sweep: Sweep) -> str:
    """Returns each layer less BN-ReLU by size; nothing where there is no BN-ReLU."""
    baseline = sweep.find("bn_relu")
    if baseline is None:
        return ""
    rows = [
        [sweep.layer_label(layer)]
        + [_format_difference(sweep.difference((layer, s), (baseline, s))) for s in sweep.sizes]
        for layer in sweep.layers
        if layer != baseline
    ]
    return markdown_table(_header(sweep), rows)


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
        rows.append([claim, _format_difference(difference), verdict])

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
    here = "here" + _in_unit(sweep.metrics.main, "points").replace(" in", ",")
    return markdown_table(["the paper's claim", here, "verdict"], rows)


def _too_short(sweep: Sweep, layer: str, size: int) -> str:
    """Returns the verdict on a layer that learns more slowly at first; "" for long runs."""
    steps = max(
        (run.steps for run in sweep.runs if (run.layer, sweep.size(run)) == (layer, size)),
        default=0,
    )
    return f"not tested: {steps:,} updates" if steps < _FAIR_STEPS else ""


def provenance(sweep: Sweep, history: list[dict[str, Any]]) -> str:
    """Lists config, commands, commits, hardware and time, as runs and sweep noted them."""
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
        time += f"; {sum(seconds) / 60:.1f} min in all"
        time += f", {starts[-1]['jobs']} at a time" if starts else ""
    lines.append(f"- time: {time}")
    return "\n".join(lines)


def short_commit(commit: str) -> str:
    """Shortens a commit to seven digits, and says whether the tree had changes.

    >>> short_commit("eb0fffd859a2b874ca9a6a6a47aa2c0ac4634ebf+changes")
    '`eb0fffd+changes`'
    """
    return f"`{commit[:7]}{commit[40:]}`" if commit else ""


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Writes a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _remarks(history: list[dict[str, Any]]) -> list[str]:
    """Returns what the config file says of itself behind its line about the paper, if there."""
    configs = [Path(e["config"].partition(":")[0]) for e in history if e["event"] == "start"]
    if not configs or not configs[-1].is_file():
        return []
    try:
        text = ast.get_docstring(ast.parse(configs[-1].read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):  # edited since, or no text any more
        return []
    paragraphs = text.split("\n\n")
    heads = [i for i, paragraph in enumerate(paragraphs) if "Paper: " in paragraph]
    remarks = (
        [" ".join(paragraph.split()) for paragraph in paragraphs[heads[-1] + 1 :]] if heads else []
    )
    return ["## The recipe", *remarks] if remarks else []


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value})) or "unknown"


def _command_line(command: list[str]) -> str:
    return shlex.join(["python", *command[1:]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_unit(metric: Metric, percent: str) -> str:
    """Returns " in UNIT", with the given word for percent; "" for a plain number."""
    unit = percent if metric.unit == "%" else metric.unit
    return f" in {unit}" if unit else ""


def _resolution(sweep: Sweep) -> str:
    if not sweep.has_papers_metric:  # of what else is a share of the images
        return ""
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
