r"""Searches for norm-activation layers by evolution, or at random.

Examples:
  python -m experiments.search --config configs/search/cifar10_evonorm_b.py:tiny \
      --config.dataset.source=npz --config.dataset.path=data/cifar10.npz --workdir runs/b
  python -m experiments.search --config configs/search/cifar10_evonorm_s.py:small --workers 4
  python -m experiments.search --config configs/search/cifar10_evonorm_b.py --ray auto
  python -m experiments.search --config configs/search/cifar10_evonorm_b.py:tiny \
      --config.search.strategy=random --config.seed=1 --workdir runs/random

Every candidate goes into <workdir>/ledger.sqlite. The same command resumes a search that was
stopped or killed; with a larger --config.search.max_scored it extends one. Ctrl-C or SIGTERM stops
it. Then: `python -m experiments.plot WORKDIR`, `python -m experiments.rerank --workdir WORKDIR`.
Exit code: 0 the budget is used up, 2 wrong input, 128 + signal stopped.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import jax
import ml_collections

import evonorm_jax
from evonorm_jax.data.config import check_fields as check_dataset
from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import block, check_fields
from evonorm_jax.graphs.formula import formula
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.placement import places_for_workers
from evonorm_jax.provenance import command, git_commit, machine
from evonorm_jax.run_files import as_json
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.run.driver import Driver, SearchSettings
from evonorm_jax.search.run.executor import Executor
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.local_executor import LocalExecutor
from evonorm_jax.search.run.rerank import RerankConfig
from evonorm_jax.search.run.stop_request import StopRequest
from evonorm_jax.search.run.worker import EngineFactory
from experiments import launch
from experiments.config_file import split_config
from experiments.hosts import has_tpu
from experiments.process import keep_traceback_in, run_main

BEST_FILE = "best.json"


def main() -> None:
    """Parses the command line and searches."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARGUMENT]",
        help="configuration; :small for one GPU, :tiny for two CPU cores, :smoke for seconds; "
        ":tfds, :folder and :npz say where CIFAR-10 comes from, as in :tiny,npz",
    )
    parser.add_argument(
        "--workdir",
        type=launch.user_path,
        help="folder of the search: ledger, logs, result (default: runs/search_<config>_<form>)",
    )
    launch.add_print_config_argument(parser)
    add_worker_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    config = launch.parse_config(arguments.config, overrides, "search")
    if arguments.print_config:
        launch.print_config(config)
        return
    path, form = split_config(arguments.config)
    name = f"search_{path.stem}_{form}" if form else f"search_{path.stem}"
    workdir = Path(arguments.workdir or Path("runs") / name)
    keep_traceback_in(workdir)
    plain = as_json(config.to_dict())
    settings = check_search(plain)

    from evonorm_jax.search.run.search_display import SearchDisplay, summary_line

    with (
        StopRequest() as stop,
        # Before the ledger, in which nothing is to stand of a search that cannot start.
        create_executor(arguments, settings.protocol, plain["dataset"], workdir) as executor,
        Ledger(workdir, plain, describe_start(arguments), settings.protocol.anchor_names) as ledger,
        SearchDisplay(sys.stdout) as display,
    ):
        driver = Driver(settings, ledger, executor, display.update)
        finished = driver.run(stop)
    search = driver.search
    print(summary_line(search, len(search.front())))
    if search.num_scored:
        best = search.best
        print(f"best layer: y = {formula(best.graph, 'unicode')}")
        scores = dict(zip(settings.protocol.anchor_names, best.scores, strict=True))
        save_graph(best.graph, workdir / BEST_FILE, candidate=best.id, scores=scores)
    if not finished:
        report_stop(stop)
    print(f"python -m experiments.plot {shlex.quote(str(workdir))} draws it.")


def check_search(plain: dict[str, Any]) -> SearchSettings:
    """Reads the config of a search, with all that is to come of it.

    Raises:
      UserError: A field is missing, unknown, of another type or out of range.
    """
    settings = SearchSettings.from_config(plain)
    check_fields(plain, {"dataset": block(), "rerank": block()}, "config")
    check_dataset(ml_collections.ConfigDict(plain["dataset"]))
    RerankConfig.from_config(plain["rerank"])
    return settings


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what evaluates."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="evaluations at a time (default: one on each GPU, or on each CPU core)",
    )
    launch.add_ray_argument(parser, "evaluate")


def create_executor(
    arguments: argparse.Namespace,
    protocol: ProxyProtocol,
    dataset: dict[str, Any],
    workdir: Path,
) -> Executor:
    """Creates the workers that the command line asks for; they start with the first trial."""
    factory = EngineFactory(protocol, dataset)
    if arguments.ray is not None:
        from evonorm_jax.search.run.ray_executor import RayExecutor

        return RayExecutor(factory, arguments.ray, arguments.workers)
    return LocalExecutor(
        factory, places_for_workers(arguments.workers, has_tpu=has_tpu()), workdir / "logs"
    )


def describe_start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what the ledger keeps of this start."""
    return {
        "command": command(),
        "commit": git_commit(),
        "versions": {"evonorm_jax": evonorm_jax.__version__, "jax": jax.__version__},
        "machine": machine(),
        "workers": arguments.workers,
        "ray": arguments.ray,
    }


def save_graph(graph: Graph, path: Path, **metadata: Any) -> None:
    """Writes a graph file and says where.

    Raises:
      UserError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        graph.save(path, **metadata)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). The ledger has the layer: "
            "mend that and run the same command again."
        ) from error
    print(f"  {path}")


def report_stop(stop: StopRequest) -> None:
    """Ends the process as one that a signal has stopped."""
    number = stop.signal or signal.SIGTERM
    print(f"{signal.Signals(number).name}: the same command goes on from here.")
    sys.exit(128 + number)


if __name__ == "__main__":
    run_main(main, outlive_stdout=True)
