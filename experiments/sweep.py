r"""Runs a sweep: what is missing of it, several runs at a time, each in a directory of its own.

Examples:
  python -m experiments.sweep --config configs/sweeps/digits_batch_size.py --workdir runs/digits
  python -m experiments.sweep --config configs/sweeps/cifar10_batch_size.py:npz --jobs 4 \
      --workdir runs/cifar10 --config.dataset.path=data/cifar10.npz --only '*/seed=0'
  python -m experiments.sweep --config configs/sweeps/imagenet_r50_batch_size.py \
      --workdir /mnt/shared/r50 --print > commands.txt
  python -m experiments.sweep --config configs/sweeps/imagenet_r50_batch_size.py \
      --workdir /mnt/shared/r50 --ray auto

The same command again skips what is finished, resumes what was cut short and retries what failed;
started twice on one folder, or on several machines that share it, it runs no cell twice. With --ray
the runs go to the nodes of a cluster; the clone and WORKDIR must then be at the same path of a file
system that all of them share. Ctrl-C or SIGTERM lets the runs save and stops; twice, it kills them.
`python -m experiments.plot WORKDIR` draws what is there. Exit code: 0 all finished, 1 some failed,
2 wrong input, 128 + signal stopped.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from evonorm_jax import provenance
from evonorm_jax.errors import UserError
from evonorm_jax.placement import places_for_runs
from evonorm_jax.sweeps import (
    Cell,
    LocalRuns,
    SweepRunner,
    create_cells,
    select_cells,
    train_arguments,
)
from evonorm_jax.sweeps.history import record_event
from evonorm_jax.sweeps.live_table import LiveTable, summary_line
from evonorm_jax.sweeps.run import Runs
from evonorm_jax.training import run_directory
from evonorm_jax.training.config import check_config, complete
from experiments import launch
from experiments.config_file import ROOT, get_cells, get_config, load_config_module
from experiments.hosts import has_tpu
from experiments.process import keep_traceback_in, run_main


def main() -> None:
    """Parses the command line and runs what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARGUMENT]",
        help="configuration with a function sweep(); :smoke runs four tiny cells of it, :tfds, "
        ":folder and :npz as in experiments.train, and joined by a comma",
    )
    parser.add_argument(
        "--workdir", type=launch.user_path, required=True, help="folder for all runs of the sweep"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time (default: one to a GPU, or one to two CPU cores)",
    )
    add_ray_arguments(parser)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cells whose name matches, such as 'evonorm_s0/images_per_worker=4/*'; repeatable",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        dest="print_commands",
        help="print the commands of the unfinished cells, one per line, and run nothing",
    )
    arguments, overrides = parser.parse_known_args()
    workdir = Path(arguments.workdir)
    keep_traceback_in(workdir)
    cells = load_cells(arguments.config, overrides, workdir)
    cells = select_cells(cells, arguments.only)

    def command(cell: Cell) -> list[str]:
        train = train_arguments(cell, arguments.config, overrides)
        return ["-m", "experiments.train", *train]

    if arguments.print_commands and arguments.ray is not None:
        raise UserError("--print runs nothing: leave --ray out.")
    if arguments.print_commands:
        for cell in cells:
            if not cell.is_finished():
                print(shlex.join(["python", *command(cell)]))
        return
    started = time.monotonic()
    with create_runs(arguments, command) as runs, LiveTable(sys.stdout) as table:
        open_sweep(workdir, arguments.config, len(runs.places))
        runner = SweepRunner(cells, runs, table)
        finished = runner.run()
    seconds = round(time.monotonic() - started, 1)
    record_event(workdir, "end", seconds=seconds, runs=len(runner.run_seconds))
    report(runner, workdir)
    if runner.stop_signal is not None:
        sys.exit(128 + runner.stop_signal)
    sys.exit(0 if finished else 1)


def add_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a sweep on a Ray cluster."""
    launch.add_ray_argument(parser, "run the cells")
    parser.add_argument(
        "--cpus_per_run",
        type=int,
        metavar="N",
        help="with --ray: CPU cores of a run (default: one beside a GPU, else two)",
    )
    parser.add_argument(
        "--gpus_per_run",
        type=float,
        metavar="N",
        help="with --ray: GPUs of a run, or a part of one (default: 1 if the cluster has GPUs)",
    )


def create_runs(
    arguments: argparse.Namespace, command: Callable[[Cell], list[str]]
) -> AbstractContextManager[Runs]:
    """Creates what starts the runs: on this machine, or on a cluster, which it joins.

    Raises:
      UserError: There is no room, or no cluster.
    """
    if arguments.ray is None:
        for name in ("cpus_per_run", "gpus_per_run"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} is for --ray; without it, --jobs shares the machine.")
        places = places_for_runs(arguments.jobs, has_tpu=has_tpu())
        return nullcontext(LocalRuns(places, command))
    from evonorm_jax.sweeps.ray_runs import RayRuns

    return RayRuns(
        arguments.ray, command, arguments.jobs, arguments.cpus_per_run, arguments.gpus_per_run
    )


def load_cells(config_file: str, overrides: list[str], workdir: Path) -> list[Cell]:
    """Makes the cells of a sweep, each checked against its config and the run that may be there.

    Raises:
      UserError: The file is no sweep, overrides do not fit, or a folder has a run of another
        config.
    """
    module, argument = load_config_module(config_file)
    if not hasattr(module, "sweep"):
        raise UserError(
            f"--config={config_file} has no function sweep(arg). The ready sweeps are in "
            f"{ROOT / 'configs' / 'sweeps'}."
        )
    cells = create_cells(get_cells(module, argument), workdir)
    for cell in cells:
        config = get_config(module, argument, "training")
        config = complete(launch.override(config, [*overrides, *cell.arguments]))
        check_config(config)
        run_directory.check_owner(cell.workdir, config)
    return cells


def open_sweep(workdir: Path, config_file: str, jobs: int) -> None:
    """Creates the folder, and notes this start in it.

    Raises:
      UserError: It cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        record_event(
            workdir,
            "start",
            command=provenance.command(),
            config=config_file,
            jobs=jobs,
            machine=provenance.machine(),
        )
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror or error}). Choose another."
        ) from error


def report(runner: SweepRunner, workdir: Path) -> None:
    """Prints how it ended: the counts, and why runs failed."""
    print(f"\n{summary_line(runner)}")
    for failure in runner.failures:
        print(f"\nfailed: {failure.cell.name} ({failure.how})")
        print(textwrap.indent(failure.tail or "(it printed nothing)", "  "))
        print(f"  log: {failure.cell.log}")
    if runner.stop_signal is not None:
        print(f"{signal.Signals(runner.stop_signal).name}: the same command goes on from here.")
    else:
        print(f"python -m experiments.plot {shlex.quote(str(workdir))} draws it.")


if __name__ == "__main__":
    run_main(main, outlive_stdout=True)
