"""Reports searches in one folder: figures, the winners drawn, tables and a CSV file."""

from __future__ import annotations

import itertools
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

SCORED_FILE = "scored.csv"


def write_search_report(
    paths: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str]
) -> list[Path]:
    """Reports searches, finished or still going.

    Args:
      paths: Folders of searches, or their ledgers; those of one strategy count as repetitions.
      folder: The folder of the files: scatter.png and front.png of searches with several networks,
        progress.png, fates.png, winner_<place>.png, README.md with the numbers, and scored.csv
        with a row for each scored layer.

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
    names = [*(file.name for file in files), SCORED_FILE]
    report = report_path(folder, summary.partition("\n")[0], names)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = "\n".join(f"![{file.stem.replace('_', ' ')}]({file.name})" for file in files)
    write_report(report, f"{summary}\n{pictures}\n\n## How it was measured\n\n{_provenance(runs)}")
    for name in figures:
        save_figure(FIGURES[name](runs), folder / f"{name}.png")
    for name, graph in zip(winners, graphs, strict=True):
        draw_graph(graph, folder / f"{name}.png")
    return [*files, report, _write_scored(runs, folder / SCORED_FILE)]


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
    return "\n".join(lines)


def _write_scored(runs: Sequence[SearchRun], path: Path) -> Path:
    """Writes what the figures of accuracies show, for readers who have no ledger."""
    header = ["search", "strategy", "seed", "candidate", "parent", *MEASURES, *runs[0].networks]
    write_csv(path, itertools.chain([[*header, "graph"]], *map(_scored_rows, runs)))
    return path


def _scored_rows(run: SearchRun) -> Iterator[list[object]]:
    costs = [run.cost(measure) for measure in MEASURES]
    entries, seed = run.contents.entries, run.contents.config["seed"]
    scored = entries.read(entries.ids[place] for place in run.scored)
    for entry, scores, *spent in zip(scored, run.scores(), *costs, strict=True):
        candidate = entry.candidate
        about = [run.name, run.strategy, seed, candidate.id, candidate.parent]
        accuracies = [f"{score:.2f}" for score in scores]
        yield [*about, *spent, *accuracies, candidate.graph.to_text()]
