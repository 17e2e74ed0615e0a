"""A sweep in words and tables: Markdown with its settings, numbers and a verdict."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evonorm_jax.analysis.curves import save_figure
from evonorm_jax.analysis.sweep_figures import (
    CURVES_DPI,
    draw_accuracy,
    draw_learning_curves,
    setting_line,
)
from evonorm_jax.analysis.sweep_files import load_sweep, read_history
from evonorm_jax.analysis.sweep_results import RESULTS_FILE, write_results
from evonorm_jax.analysis.sweep_tables import (
    accuracy_table,
    counts_line,
    difference_table,
    in_unit,
    metric_table,
    training_table,
    verdict_table,
)
from evonorm_jax.analysis.sweeps import IMAGES_PER_WORKER, Sweep
from evonorm_jax.run_files import report_path, write_report

ACCURACY_FILE = "accuracy.png"
CURVES_FILE = "learning_curves.png"

_SMALL_SIZES = "Epochs are equal, so small sizes have more updates. "


def write_sweep_report(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Path]:
    """Reads the runs below `path` and writes report, table and figures into the folder `output`.

    Raises:
      UserError: There are no runs of one sweep, or none has ended, or the report would take the
        place of another file.
    """
    path, output = Path(path), Path(output)
    sweep = load_sweep(path)
    text = report(sweep, read_history(path))
    names = (ACCURACY_FILE, CURVES_FILE, RESULTS_FILE)
    readme = report_path(output, text.partition("\n")[0], names)
    figures = draw_accuracy(sweep), draw_learning_curves(sweep)  # which may find nothing to draw
    output.mkdir(parents=True, exist_ok=True)
    write_report(readme, text)
    save_figure(figures[0], output / ACCURACY_FILE)
    save_figure(figures[1], output / CURVES_FILE, dpi=CURVES_DPI)
    write_results(sweep, output / RESULTS_FILE)
    return [*(output / name for name in names), readme]


def report(sweep: Sweep, history: list[dict[str, Any]]) -> str:
    """Returns the whole report as Markdown."""
    metric = sweep.metrics.main
    against = f"against {sweep.axis.label}" if len(sweep.sizes) > 1 else "by layer"
    end = "epoch" if sweep.setting.num_epochs else "step"
    parts = [
        f"# {_capital(metric.heading)} {against}: {sweep.setting.dataset}",
        f"{_capital(setting_line(sweep))}. {_capital(metric.label)}{in_unit(metric, 'percent')} "
        f"after the last {end}, mean ± sample standard deviation over "
        f"{_count(len(sweep.seeds), 'seed')}.{_resolution(sweep)}",
        accuracy_table(sweep),
        f"![{metric.heading}]({ACCURACY_FILE})",
    ]
    if differences := difference_table(sweep):
        unit = in_unit(metric, "points").replace(" in", ", in")
        size = "size" if sweep.axis == IMAGES_PER_WORKER else "length"
        parts += [f"Difference to BN-ReLU at the same {size}{unit}:", differences]
    if table := metric_table(sweep):
        parts += ["## All metrics", table, _about_metrics(sweep)]
    if sweep.has_papers_metric and (table := training_table(sweep)):
        of_size = f" at {sweep.sizes[0]:,} {sweep.axis.label}" if len(sweep.sizes) > 1 else ""
        parts += [
            "## Training loss",
            table,
            f"The mean of the last logged steps{of_size}, beside the final {metric.heading}: mean "
            "± sample standard deviation.",
        ]
    if sweep.axis == IMAGES_PER_WORKER and len(sweep.sizes) > 1:
        updates = "" if sweep.setting.batch_size else _SMALL_SIZES
        parts += [
            "## What agrees with the paper",
            verdict_table(sweep),
            "A layer loses, or is above, where the difference is more than twice its standard "
            f"error over the seeds (± in the table). {updates}The paper makes its claims for "
            f"{'' if sweep.has_papers_metric else 'classifiers on '}ImageNet (arXiv v1, Table 3).",
        ]
    parts += [
        *_remarks(history),
        "## How it was made",
        provenance(sweep, history),
        f"![learning curves]({CURVES_FILE})",
        f"Every run is a row of [{RESULTS_FILE}]({RESULTS_FILE}).",
    ]
    return "\n\n".join(parts) + "\n"


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
    seconds = [event["seconds"] for event in history if event["event"] == "end"]
    if seconds and len(seconds) >= len(starts):  # of a start that was killed nobody knows the time
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


def _about_metrics(sweep: Sweep) -> str:
    """Says how the table of all metrics is read."""
    text = "Mean ± sample standard deviation. Of a metric with ↑ the higher value is better, of one"
    text += " with ↓ the lower."
    if counts := counts_line(sweep):
        text += f" The values are of {counts}."
    if any(map(sweep.values_of_real_data, sweep.tabled)):
        text += " In the last row, held-out real images take the place of the samples."
    return text


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value})) or "unknown"


def _command_line(command: list[str]) -> str:
    return shlex.join(["python", *command[1:]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _resolution(sweep: Sweep) -> str:
    if not sweep.has_papers_metric:  # of what else is a share of the images
        return ""
    counts = {run.examples for run in sweep.runs if run.examples}
    if len(counts) != 1:
        return ""
    (examples,) = counts
    return f" One of the {examples:,} test images is {100 / examples:.2f} points."
