"""Evaluates the best layers of a search again, at a larger budget, and picks the winners.

    python -m experiments.rerank --workdir runs/b [--config.rerank.num_seeds=3]

The config is that of the search; its field `rerank` says what the larger budget is. Evaluations go
into the ledger of the search, and the same command resumes. The winners are graph files in
<workdir>/winners, for `norm_act("graph:FILE")` and `experiments.train`. Exit code: 0 done, 2 wrong
input, 128 + signal stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import ml_collections

from evonorm_jax.graphs.formula import formula
from evonorm_jax.run_files import as_json
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import read_ledger_config
from evonorm_jax.search.run.rerank import WINNERS, RerankConfig, Standing, rerank, standings
from evonorm_jax.search.run.stop_request import StopRequest
from experiments import launch
from experiments.process import keep_traceback_in, run_main
from experiments.search import (
    add_worker_arguments,
    check_search,
    create_executor,
    describe_start,
    report_stop,
    save_graph,
)


def main() -> None:
    """Parses the command line and evaluates what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rerank",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=launch.user_path, required=True, help="--workdir of experiments.search"
    )
    add_worker_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    workdir = Path(arguments.workdir)
    keep_traceback_in(workdir)
    saved = ml_collections.ConfigDict(read_ledger_config(workdir))
    plain = as_json(launch.override(saved, overrides).to_dict())
    settings = check_search(plain)
    config = RerankConfig.from_config(plain["rerank"])
    with (
        StopRequest() as stop,
        create_executor(arguments, config.protocol, plain["dataset"], workdir) as workers,
        Ledger(workdir, plain, describe_start(arguments), settings.protocol.anchor_names) as ledger,
    ):
        finished = rerank(config, ledger, workers, print_progress, stop)
        ranked = standings(ledger.contents(), config.num_candidates)
    if not finished:
        report_stop(stop)
    print_table(ranked, config.num_winners)
    for place, standing in enumerate(ranked[: config.num_winners], start=1):
        if standing.scores:
            number = standing.entry.id
            path = workdir / WINNERS / f"{place}.json"
            save_graph(
                standing.entry.candidate.graph, path, candidate=number, scores=standing.scores
            )


def print_progress(done: int, total: int) -> None:
    """Prints how many evaluations are done."""
    print(f"{done} of {total} evaluations", flush=True)


def print_table(ranked: list[Standing], num_winners: int) -> None:
    """Prints the accuracies before and after, with the winners marked."""
    networks = list(next((standing.scores for standing in ranked if standing.scores), {}))
    print("\n  ".join(["", *_rows(ranked, networks, num_winners)]))


def _rows(ranked: list[Standing], networks: list[str], num_winners: int) -> list[str]:
    rows = [f"  candidate  search %  rerank %  {'  '.join(networks)}  layer"]
    for place, standing in enumerate(ranked):
        entry = standing.entry
        mark = "*" if place < num_winners and standing.scores else " "
        if standing.scores:
            scores = "  ".join(f"{standing.scores[n]:{len(n)}.2f}" for n in networks)
            after = f"{standing.mean:8.2f}"
        else:
            scores, after = standing.reason or "", f"{'-':>8}"
        layer = formula(entry.candidate.graph, "unicode")
        rows.append(f"{mark} {entry.id:9d}  {entry.mean:8.2f}  {after}  {scores}  {layer}")
    return rows


if __name__ == "__main__":
    run_main(main, outlive_stdout=True)
