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
SIGTERM or Ctrl-C saves and stops. Exit code: 0 done or stopped, 1 unforeseen (--debug prints the
traceback), 2 wrong input, 3 training diverged, 130 Ctrl-C before there was a step to save.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import jax

from evonorm_jax.data.config import dataset_name
from evonorm_jax.field_rules import check_fields, text
from evonorm_jax.metrics import metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    CONFUSION_FIGURE,
    CURVE_FILE,
    METADATA_FILE,
    METRICS_FILE,
    read_json,
)
from experiments import launch
from experiments.config_file import ROOT, split_config
from experiments.hosts import add_distributed_arguments
from experiments.process import keep_traceback_in, run_main

if TYPE_CHECKING:
    import ml_collections

DEFAULT_CONFIG = ROOT / "configs" / "digits_resnet_evonorm_s0.py"


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
        type=launch.user_path,
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
    launch.add_print_config_argument(parser)
    add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    config = launch.parse_config(arguments.config, overrides)
    if arguments.print_config:
        launch.print_config(config)
        return
    check_fields(config, {"dataset.path": text(), "dataset.name": text()}, "config")
    workdir = Path(arguments.workdir or default_workdir(arguments.config, config))
    keep_traceback_in(workdir)

    launch.start_jax(arguments)
    # After start-up: they must not touch devices before.
    from evonorm_jax import training
    from evonorm_jax.training.weights_input import scale_as_weights

    config = scale_as_weights(config, launch.overridden_fields(overrides))
    try:
        summary = training.train_and_evaluate(
            config,
            workdir,
            extend=arguments.extend,
            progress_stream=sys.stdout,
            draw_curve=draw_figures,
        )
    except training.TrainingDiverged as error:
        print(f"train: {error}", file=sys.stderr)
        sys.exit(3)
    if summary and jax.process_index() == 0:
        print_summary(summary, workdir)


def default_workdir(config_file: str, config: ml_collections.ConfigDict) -> Path:
    """Names the run directory after the config file, and after the folder where the data are own.

    Args:
      config_file: FILE.py[:ARGUMENT].
      config: The config of that file, with its overrides.
    """
    path, argument = split_config(config_file)
    parts = [path.stem, argument]
    if config.dataset.path and not config.dataset.name:  # each folder has a run of its own
        parts.append(dataset_name(config.dataset))
    return Path("runs") / "_".join(filter(None, parts))


def draw_figures(workdir: Path) -> None:
    """Draws `curve.png`, and the confusion matrix or precision over recall that the task has."""
    # Here, because matplotlib takes half a second.
    from evonorm_jax.analysis import plot_confusion, plot_precision_recall, plot_run

    plot_run(workdir)
    plot_confusion(workdir)
    plot_precision_recall(workdir)


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
    classes = ""
    if (workdir / CONFUSION_FIGURE).exists():
        classes = f"\n  classes     {workdir / CONFUSION_FIGURE}"
    print(
        f"\ntest {metrics.main.heading} {value}{fake} after {summary['steps']} steps, "
        f"{summary['train_seconds']:.1f} s of training\n"
        f"  log         {workdir / METRICS_FILE}\n"
        f"  curve       {workdir / CURVE_FILE}{classes}\n"
        f"  checkpoint  {workdir / 'checkpoints' / str(summary['steps'])}{best}"
    )


if __name__ == "__main__":
    run_main(main, outlive_stdout=True)
