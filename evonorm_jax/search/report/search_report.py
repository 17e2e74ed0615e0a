"""Reports searches in one folder: figures, the winners drawn, tables and a CSV file."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from evonorm_jax.analysis.curves import save_figure
from evonorm_jax.analysis.sweep_report import short_commit
from evonorm_jax.graphs.drawing import draw_graph
from evonorm_jax.run_files import report_path, write_csv, write_report
from evonorm_jax.search.report.search_figures import FIGURES, figure_names
from evonorm_jax.search.report.search_runs import MEASURES, SearchRun, load_searches
from evonorm_jax.search.report.search_tables import find_winners, summarize
from evonorm_jax.search.run.ledger_entries import LedgerEntry
from evonorm_jax.search.run.rerank import standings

SCORED_FILE = "scored.csv"
RERANKED_FILE = "reranked.csv"

_ABOUT = ("search", "strategy", "seed", "candidate")  # the first columns of both


def write_search_report(
    paths: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> list[Path]:
    """Reports searches, finished or still going.

    Args:
      paths: Folders of searches, or their ledgers; those of one strategy count as repetitions.
      folder: The folder of the files: scatter.png and front.png of searches with several networks,
        progress.png, fates.png, winner_<place>.png, README.md with the numbers, scored.csv with a
        row for each scored layer, and reranked.csv with a row for each layer ranked again.

    Returns:
      The files.

    Raises:
      UserError: A path is no search, or the searches do not fit together, or the report would take
        the place of another file.
    """
    runs, folder = load_searches(paths), Path(folder)
    summary = summarize(runs)
    figures = figure_names(runs)
    graphs = [winner.entry.candidate.graph for winner in find_winners(runs)]
    winners = [f"winner_{place}" for place, _ in enumerate(graphs, start=1)]
    files = [folder / f"{name}.png" for name in (*figures, *winners)]
    tables = [SCORED_FILE]
    if any(run.contents.reranked for run in runs):
        tables.append(RERANKED_FILE)
    names = [*(file.name for file in files), *tables]
    report = report_path(folder, summary.partition("\n")[0], names)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = "\n".join(f"![{file.stem.replace('_', ' ')}]({file.name})" for file in files)
    write_report(report, f"{summary}\n{pictures}\n\n## How it was measured\n\n{_provenance(runs)}")
    for name in figures:
        save_figure(FIGURES[name](runs), folder / f"{name}.png")
    for name, graph in zip(winners, graphs, strict=True):
        draw_graph(graph, folder / f"{name}.png")
    for name in tables:
        write_csv(folder / name, _TABLES[name](runs))
    return [*files, report, *(folder / name for name in tables)]


def _provenance(runs: Sequence[SearchRun]) -> str:
    """Writes the commands, commits, machines and dates that searches noted at their starts."""
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
    lines.append(f"- every scored layer: [{SCORED_FILE}]({SCORED_FILE})")
    if any(run.contents.reranked for run in runs):
        lines.append(f"- every layer that was ranked again: [{RERANKED_FILE}]({RERANKED_FILE})")
    return "\n".join(lines)


def _scored_table(runs: Sequence[SearchRun]) -> Iterator[list[object]]:
    """Yields what the figures of accuracies show, for readers who have no ledger."""
    yield [*_ABOUT, "parent", *MEASURES, *runs[0].networks, "graph"]
    for run in runs:
        costs = [run.cost(measure) for measure in MEASURES]
        entries = run.contents.entries
        scored = entries.read(entries.ids[place] for place in run.scored)
        for entry, scores, *spent in zip(scored, run.scores(), *costs, strict=True):
            accuracies = [f"{score:.2f}" for score in scores]
            yield [*_about(run, entry), entry.candidate.parent, *spent, *accuracies, _text(entry)]


def _reranked_table(runs: Sequence[SearchRun]) -> Iterator[list[object]]:
    """Yields the layers that were ranked again and did not fail, those of each search in order."""
    found = [
        (run, standing) for run in runs for standing in standings(run.contents) if standing.scores
    ]
    networks = sorted({name for _, standing in found for name in standing.scores})
    yield [*_ABOUT, *networks, "graph"]
    for run, standing in found:
        scores = standing.scores
        accuracies = [f"{scores[name]:.2f}" if name in scores else "" for name in networks]
        yield [*_about(run, standing.entry), *accuracies, _text(standing.entry)]


def _about(run: SearchRun, entry: LedgerEntry) -> list[object]:
    return [run.name, run.strategy, run.contents.config["seed"], entry.id]


def _text(entry: LedgerEntry) -> str:
    return entry.candidate.graph.to_text()


_TABLES = {SCORED_FILE: _scored_table, RERANKED_FILE: _reranked_table}
