"""All of a search in one folder: the figures, the winners drawn, and a report in Markdown."""

from __future__ import annotations

import csv
import os
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evonorm_jax.analysis.search_figures import FIGURES
from evonorm_jax.analysis.searches import (
    MEASURES,
    SearchRun,
    load_searches,
    network_label,
    reason_label,
    total_fates,
)
from evonorm_jax.analysis.sweep_report import short_commit
from evonorm_jax.search.canonical import canonical_hash
from evonorm_jax.search.drawing import draw_graph
from evonorm_jax.search.formula import formula
from evonorm_jax.search.records import Entry
from evonorm_jax.search.rerank import standings

REPORT_FILE = "README.md"
NUM_WINNERS = 3


class Winner(NamedTuple):
    """One of the best layers.

    Attributes:
      search: that found it, by name.
      entry: in the ledger.
      scores: accuracy by network in percent.
      reranked: whether at the larger budget.
    """

    search: str
    entry: Entry
    scores: Mapping[str, float]
    reranked: bool


def write_search_report(
    paths: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> list[Path]:
    """Draws searches, finished or still going.

    Args:
      paths: folders of searches, or their ledgers; those of one strategy count as repetitions.
      folder: for the files: scatter.png, progress.png, fates.png, front.png, winner_<place>.png,
        README.md with the numbers, and scored.csv with a row for each scored layer.

    Returns:
      The files.

    Raises:
      UserError: a path is no search, or the searches do not fit together.
    """
    runs, folder = load_searches(paths), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    # Without scores there is nothing else to see.
    for name in FIGURES if any(run.scored for run in runs) else ("fates",):
        files.append(folder / f"{name}.png")
        FIGURES[name](runs).savefig(files[-1], dpi=150)
    for place, winner in enumerate(_winners(runs), start=1):
        path = folder / f"winner_{place}.png"
        draw_graph(winner.entry.candidate.graph, path)
        files.append(path)
    report = folder / REPORT_FILE
    pictures = "\n".join(f"![{file.stem.replace('_', ' ')}]({file.name})" for file in files)
    text = f"{summarize(runs)}\n{pictures}\n\n## How it was measured\n\n{_provenance(runs)}\n"
    report.write_text(text, encoding="utf-8")
    return [*files, report, _write_scored(runs, folder / "scored.csv")]


def summarize(runs: Sequence[SearchRun]) -> str:
    """The searches in Markdown: how many candidates ended where, and the best layers."""
    parts = ["# Layer search", _counts_table(runs)]
    if len(runs) > 1 and all(run.scored for run in runs):
        parts += ["The best layer at an equal cost:", _equal_cost_table(runs)]
    parts.append(_fates_table(runs))
    if winners := _winners(runs):
        networks = list(winners[0].scores)
        budget = "the larger budget" if winners[0].reranked else "the budget of the search"
        parts += [f"The best layers at {budget}:", _winners_table(winners, networks)]
    return "\n\n".join(parts) + "\n"


def _counts_table(runs: Sequence[SearchRun]) -> str:
    rows = []
    for run in runs:
        decided = run.decided
        hours = sum(e.evaluation.seconds for e in decided if e.evaluation) / 3600
        best = max((entry.mean for entry in run.scored), default=None)
        rows.append(
            (
                run.name,
                run.strategy,
                f"{run.contents.config['seed']}",
                f"{len(decided):,}",
                f"{len(run.trained):,}",
                f"{len(run.scored):,}",
                f"{sum(e.evaluation.steps for e in decided if e.evaluation):,}",
                f"{hours:.2f}",
                "-" if best is None else f"{best:.2f}",
            )
        )
    header = ("search", "strategy", "seed", "candidates", "trained", "scored", "training steps")
    return _table((*header, "worker hours", "best mean (%)"), rows)


def _equal_cost_table(runs: Sequence[SearchRun]) -> str:
    """The best of each strategy when all searches had spent as much as the one that spent least."""
    rows = []
    for measure, label in MEASURES.items():
        budget = min(run.best_so_far(measure)[0][-1] for run in runs)
        for strategy in sorted({run.strategy for run in runs}):
            curves = [run.best_so_far(measure) for run in runs if run.strategy == strategy]
            best = [means[costs <= budget][-1:] for costs, means in curves]
            found = np.concatenate([means[np.isfinite(means)] for means in best])
            each = [f"{mean:.2f}" for mean in sorted(found, reverse=True)]
            each += ["none"] * (len(curves) - len(found))  # had scored nothing by then
            whole = len(found) == len(curves)
            mean = f"{found.mean():.2f}" if whole else "-"
            spread = f"{found.std(ddof=1):.2f}" if whole and len(found) > 1 else "-"
            rows.append((f"{budget:,} {label}", strategy, mean, spread, ", ".join(each)))
    header = ("cost of each search", "strategy", "best mean (%)", "standard deviation", "each")
    return _table(header, rows)


def _fates_table(runs: Sequence[SearchRun]) -> str:
    totals = total_fates(runs)
    reasons = sorted(
        set().union(*totals.values()),
        key=lambda reason: -sum(counts[reason] for counts in totals.values()),
    )
    rows = [
        (reason_label(reason), *(f"{counts[reason]:,}" for counts in totals.values()))
        for reason in reasons
    ]
    return _table(("outcome", *totals), rows)


def _winners_table(winners: Sequence[Winner], networks: Sequence[str]) -> str:
    rows = [
        (
            f"{place}",
            winner.search,
            f"{winner.entry.id}",
            *(f"{winner.scores[name]:.2f}" for name in networks),
            f"`{formula(winner.entry.candidate.graph, 'unicode')}`",
        )
        for place, winner in enumerate(winners, start=1)
    ]
    labels = (f"{network_label(name)} (%)" for name in networks)
    return _table(("place", "search", "candidate", *labels, "layer"), rows)


def _winners(runs: Sequence[SearchRun]) -> list[Winner]:
    """The best at the larger budget where every search was ranked again, else in the searches."""
    if all(run.contents.reranked for run in runs):
        found = [
            Winner(run.name, standing.entry, standing.scores, reranked=True)
            for run in runs
            for standing in standings(run.contents, len(run.contents.entries))
            if standing.scores
        ]
    else:
        found = [
            Winner(run.name, entry, entry.evaluation.scores, reranked=False)
            for run in runs
            for entry in run.contents.best(NUM_WINNERS * len(runs))
            if entry.evaluation is not None
        ]
    found.sort(key=lambda winner: -statistics.fmean(winner.scores.values()))
    layers: dict[str, Winner] = {}  # several searches may find the same one
    for winner in found:
        layers.setdefault(canonical_hash(winner.entry.candidate.graph), winner)
    return list(layers.values())[:NUM_WINNERS]


def _provenance(runs: Sequence[SearchRun]) -> str:
    """Commands, commits, machines and dates, as the searches noted them at their starts."""
    starts = [start for run in runs for start in run.contents.starts if "command" in start]
    commands = dict.fromkeys(shlex.join(start["command"]) for start in starts)
    dates = {time.strftime("%Y-%m-%d", time.gmtime(start["time"])) for start in starts}
    lines = ["```bash", *commands, "```", ""] if commands else []
    for label, values in (
        ("date", dates),
        ("commit", {short_commit(start.get("commit") or "") for start in starts}),
        ("machine of the driver", {start.get("machine", "") for start in starts}),
    ):
        lines.append(f"- {label}: {', '.join(sorted(values - {''})) or 'unknown'}")
    lines.append("- every scored layer: [scored.csv](scored.csv)")
    return "\n".join(lines)


def _write_scored(runs: Sequence[SearchRun], path: Path) -> Path:
    """What the figures of accuracies were drawn from, for those who have no ledger."""
    header = ["search", "strategy", "seed", "candidate", "parent", *MEASURES, *runs[0].networks]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*header, "graph"])
        for run in runs:
            costs = [run.cost(measure) for measure in MEASURES]
            for entry, scores, *spent in zip(run.scored, run.scores(), *costs, strict=True):
                candidate, seed = entry.candidate, run.contents.config["seed"]
                about = [run.name, run.strategy, seed, candidate.id, candidate.parent]
                accuracies = [f"{score:.2f}" for score in scores]
                writer.writerow([*about, *spent, *accuracies, candidate.graph.to_text()])
    return path


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)  # |x| in a formula
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
