"""Draws what runs have measured.

    python -m experiments.plot RUN [RUN ...] [--output curves.png] [--metric loss eval/top5 ...]
    python -m experiments.plot SWEEP [--output FOLDER]
    python -m experiments.plot RESULTS.csv [--output accuracy.png]
    python -m experiments.plot SEARCH [SEARCH ...] [--output FOLDER]
    python -m experiments.plot --ledger

RUN is the --workdir of experiments.train. Without --metric there is a panel for each metric that
its task shows, of a classifier loss and top-1 accuracy, each with training and evaluation. Of
detectors there is precision_recall.png as well, beside the curves.

SWEEP is the --workdir of experiments.sweep, finished or still going. It gives accuracy against
images per worker, learning curves, a CSV table and a report; RESULTS.csv is such a table, of which
the accuracy is drawn again.

SEARCH is the --workdir of experiments.search or its ledger, finished or still going. It gives
figures of the networks against each other, the progress, what became of the candidates and the
Pareto front, the best layers drawn, and a summary; searches of one strategy are repetitions.

--ledger writes docs/reproduction.md from configs/ and results/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evonorm_jax.analysis.curves import check_replaceable, plot_runs
from evonorm_jax.analysis.precision_recall import compare_precision_recall
from evonorm_jax.analysis.reproduction import REPRODUCTION_FILE, write_reproduction
from evonorm_jax.analysis.sweep_figures import plot_accuracy
from evonorm_jax.analysis.sweep_files import is_sweep
from evonorm_jax.analysis.sweep_report import write_sweep_report
from evonorm_jax.analysis.sweep_results import read_results
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import PRECISION_RECALL_FIGURE
from experiments.config_file import ROOT
from experiments.launch import user_path
from experiments.process import run_main


def main() -> None:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path",
        nargs="*",
        metavar="PATH",
        help="runs, or one sweep, or the results.csv of one, or searches",
    )
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="FILE",
        help="the picture to write, .png, .svg or .pdf (default: curves.png, accuracy.png); of a "
        "sweep or searches, the folder for all files (default: that of the sweep; figures); files "
        "that were not written here stay as they are",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of runs, one panel each: a metric (loss, top1, learning_rate) shows training and "
        "evaluation together, a full name (eval/top5) that metric alone",
    )
    parser.add_argument("--ledger", action="store_true", help=f"write {REPRODUCTION_FILE}")
    arguments = parser.parse_args()
    paths, output = arguments.path, arguments.output
    if "" in paths:
        raise UserError("PATH is empty: name a run, a sweep or a search; '.' is this folder.")
    if arguments.ledger:
        print(write_reproduction(ROOT))
    elif len(paths) == 1 and paths[0].endswith(".csv"):
        picture = Path(output or "accuracy.png")
        check_replaceable(picture)
        print(plot_accuracy(read_results(paths[0]), picture))
    elif len(paths) == 1 and is_sweep(paths[0]):
        for file in write_sweep_report(paths[0], Path(output or paths[0])):
            print(file)
    elif paths and all(map(_is_search, paths)):
        from evonorm_jax.search.report.search_report import write_search_report  # imports JAX

        one_folder = len(paths) == 1 and Path(paths[0]).is_dir()
        folder = Path(paths[0], "figures") if one_folder else Path("figures")
        for file in write_search_report(paths, output or folder):
            print(file)
    else:
        _plot_runs(paths, Path(output or "curves.png"), arguments.metric)


def _plot_runs(paths: list[str], output: Path, metrics: list[str]) -> None:
    """Draws the curves and, without --metric, the precision of detectors over their recall."""
    if output.stem == Path(PRECISION_RECALL_FIGURE).stem:
        raise UserError(f"--output '{output}' is what the second figure of detectors is called.")
    second = output.with_name(PRECISION_RECALL_FIGURE).with_suffix(output.suffix)
    for picture in (output, second):
        check_replaceable(picture)
    print(f"Curves of {len(paths)} run(s): {plot_runs(paths, output, metrics)}")
    if not metrics and (picture := compare_precision_recall(paths, second)):
        print(f"Precision over recall: {picture}")


def _is_search(path: str) -> bool:
    return path.endswith(".sqlite") or Path(path, "ledger.sqlite").is_file()


if __name__ == "__main__":
    run_main(main)
