r"""Evaluates a checkpoint of a run, or timm's weights: every example of the evaluation set once.

Examples:
  python -m experiments.evaluate --workdir runs/digits_resnet_evonorm_s0
  python -m experiments.evaluate --workdir runs/r50 --step 112590 --config.eval_batch_size=256
  python -m experiments.evaluate --workdir runs/r50 --checkpoint best --output runs/r50/best
  python -m experiments.evaluate --weights weights/resnet50.a1_in1k.safetensors \
      --config configs/imagenet_r50_bn_relu.py --config.dtype=float32

The configuration of a checkpoint is the run's own (its config.json). Weights in a safetensors file
are evaluated on the data set of --config, scaled and cropped as timm evaluates them where their
name is known (docs/weights.md), and otherwise as the config says. Fields can be overridden, for
instance to read the same data from another place. Prints one JSON object.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.interop.pretrained import name_of_file
from experiments import launch
from experiments.hosts import add_distributed_arguments
from experiments.process import run_main


def main() -> None:
    """Parses the command line and evaluates."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--workdir", type=launch.user_path, help="run directory of experiments.train"
    )
    source.add_argument(
        "--weights",
        type=launch.user_path,
        metavar="FILE.safetensors",
        help="weights of one of timm's networks",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    which.add_argument(
        "--checkpoint",
        choices=("newest", "best"),
        help="the best: by the main metric in training",
    )
    parser.add_argument(
        "--output",
        type=launch.user_path,
        metavar="FOLDER",
        help="writes what belongs to an evaluation there: accuracy of each class and confusion "
        "matrix, pictures of detections and their precision over recall, sheets of samples",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let --output be a folder that has files already"
    )
    parser.add_argument(
        "--model",
        metavar="TIMM_NAME",
        help="whose --weights they are: resnet50.a1_in1k (default: what the file is called)",
    )
    parser.add_argument(
        "--config", metavar="FILE.py[:ARGUMENT]", help="the data set to evaluate --weights on"
    )
    add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    if arguments.weights and arguments.model is None:
        arguments.model = name_of_file(arguments.weights) or None
    check_arguments(arguments)
    launch.start_jax(arguments, log_stream=sys.stderr)  # stdout is one JSON object

    from evonorm_jax.training import evaluation, run_directory, timm_weights

    if arguments.weights:
        config = launch.parse_config(arguments.config, overrides)
        metrics = timm_weights.evaluate_weights(
            config, arguments.weights, arguments.model, launch.overridden_fields(overrides)
        )
    else:
        workdir = arguments.workdir
        config = launch.override(run_directory.read_config(workdir), overrides)
        step = "best" if arguments.checkpoint == "best" else arguments.step
        metrics = evaluation.evaluate_checkpoint(config, workdir, step, output=arguments.output)
        if arguments.output and jax.process_index() == 0:
            draw_figures(arguments.output)
    if jax.process_index() == 0:
        print(as_json(metrics))


def as_json(metrics: dict[str, Any]) -> str:
    """Writes metrics as strict JSON: what is not finite becomes null, and is said."""
    missing = [
        name
        for name, value in metrics.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if missing:
        print(f"evaluate: not finite, so null: {', '.join(missing)}.", file=sys.stderr)
    return json.dumps(metrics | dict.fromkeys(missing), indent=2, allow_nan=False)


def draw_figures(folder: Path) -> None:
    """Draws the confusion matrix of a classifier, the precision of a detector over its recall."""
    # Here, because matplotlib takes half a second.
    from evonorm_jax.analysis import plot_confusion, plot_precision_recall

    plot_confusion(folder)
    plot_precision_recall(folder)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuses flags that do not go together.

    Raises:
      UserError: Some do not; the message names them.
    """
    needed, others = ["model", "config"], ["step", "checkpoint", "output"]
    if arguments.workdir:
        needed, others = [], ["model", "config"]
    given = vars(arguments)
    if missing := [f"--{name}" for name in needed if given[name] is None]:
        raise UserError(f"--weights needs {' and '.join(missing)} as well; see --help.")
    if superfluous := [f"--{name}" for name in others if given[name] is not None]:
        flag = "--workdir" if arguments.workdir else "--weights"
        raise UserError(f"{' and '.join(superfluous)} cannot go with {flag}; see --help.")
    if arguments.output:
        launch.check_output_folder(arguments.output, "--output", overwrite=arguments.overwrite)


if __name__ == "__main__":
    run_main(main)
