r"""Trains a network and evaluates it.

Examples:
  python -m experiments.train
  python -m experiments.train --config configs/cifar10_resnet20_evonorm_s0.py:folder \
      --config.dataset.path=data/cifar10
  python -m experiments.train --config configs/imagenet_r50_evonorm_s0.py:smoke
  python -m experiments.train --config.num_epochs=40 --extend
  python -m experiments.train --config configs/imagenet_r50_evonorm_s0.py \
      --workdir /mnt/shared/r50_s0 --config.seed=1

Any field of the configuration is overridden by --config.FIELD=VALUE, such as
--config.images_per_worker=4. The same command on an existing --workdir resumes at the exact step.
SIGTERM or Ctrl-C saves and stops. Exit code: 0 done or stopped, 2 wrong input, 3 training diverged.
"""

import argparse
import sys
from pathlib import Path

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import jax

from evonorm_jax.data.config import dataset_name
from evonorm_jax.metrics import metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    CURVE_FILE,
    METADATA_FILE,
    METRICS_FILE,
    read_json,
)
from experiments import launch

DEFAULT_CONFIG = launch.ROOT / "configs" / "digits_resnet_evonorm_s0.py"


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        default=str(DEFAULT_CONFIG),
        metavar="FILE.py[:ARGUMENT]",
        help="configuration; :smoke shrinks any of them to seconds on a CPU, :tfds, :folder and "
        ":npz say where CIFAR and ImageNet come from, :smoke,folder does both "
        "(default: configs/digits_resnet_evonorm_s0.py)",
    )
    parser.add_argument(
        "--workdir",
        help="run directory: logs, curve, checkpoints (default: runs/<config>, and of a folder of "
        "your own runs/<config>_<folder>)",
    )
    parser.add_argument(
        "--extend",
        action="store_true",
        help="let a run in --workdir go on for longer than it was started for, by a larger "
        "--config.num_epochs, num_steps or early_stopping_patience; from there on its schedule is "
        "that of the longer run, so the learning rate may jump up",
    )
    launch.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    config = launch.parse_config(arguments.config, overrides)
    path, argument = launch.split_config(arguments.config)
    name = f"{path.stem}_{argument}" if argument else path.stem
    if config.dataset.path and not config.dataset.name:  # each folder has a run of its own
        name = f"{name}_{dataset_name(config.dataset)}"
    workdir = Path(arguments.workdir or Path("runs") / name)

    launch.start_jax(arguments)
    from evonorm_jax import training  # after start-up: it must not touch devices before

    try:
        summary = training.train_and_evaluate(
            config,
            workdir,
            extend=arguments.extend,
            progress_stream=sys.stdout,
            draw_curve=draw_curve,
        )
    except training.TrainingDiverged as error:
        print(f"train: {error}", file=sys.stderr)
        sys.exit(3)
    if summary and jax.process_index() == 0:
        print_summary(summary, workdir)


def draw_curve(workdir: Path) -> None:
    """Draws `curve.png`."""
    from evonorm_jax.analysis import plot_run  # here, because matplotlib takes half a second

    plot_run(workdir)


def print_summary(summary: dict[str, float], workdir: Path) -> None:
    """Says what was reached, and where everything is."""
    config = read_json(workdir / CONFIG_FILE)
    metrics = metrics_of_run(read_json(workdir / METADATA_FILE), config)
    value = metrics.main.format(summary[metrics.main_metric])
    fake = " on fake images" if config["dataset"]["source"] == "fake" else ""
    best = ""
    if summary.get("best_step", summary["steps"]) != summary["steps"]:
        value_then = metrics.main.format(summary["best_value"])
        best = f"\n  best        {value_then} after {summary['best_step']} steps"
    print(
        f"\ntest {metrics.main.heading} {value}{fake} after {summary['steps']} steps, "
        f"{summary['train_seconds']:.1f} s of training\n"
        f"  log         {workdir / METRICS_FILE}\n"
        f"  curve       {workdir / CURVE_FILE}\n"
        f"  checkpoint  {workdir / 'checkpoints' / str(summary['steps'])}{best}"
    )


if __name__ == "__main__":
    launch.run_main(main)
