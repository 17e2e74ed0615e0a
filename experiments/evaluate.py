"""Evaluates a checkpoint of a run: every example of the evaluation set exactly once.

examples:
  python -m experiments.evaluate --workdir runs/digits_resnet_evonorm_s0
  python -m experiments.evaluate --workdir runs/r50 --step 112590 --config.eval_batch_size=256

The configuration is the run's own (its config.json); fields can be overridden, for instance to
read the same data from another place. Prints one JSON object.
"""

import argparse
import json
from pathlib import Path

from experiments.allocator import tune_allocator

if __name__ == "__main__":
    tune_allocator()  # before JAX is imported, because it starts this process anew

import jax

from experiments import launch


def main() -> None:
    """Parses the command line and evaluates."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="run directory of experiments.train")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    launch.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    launch.start_jax(arguments)

    from evonorm_jax.training import evaluation, run_directory

    workdir = Path(arguments.workdir)
    config = launch.override(run_directory.read_config(workdir), overrides)
    metrics = evaluation.evaluate_checkpoint(config, workdir, arguments.step)
    if jax.process_index() == 0:
        print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    launch.run_main(main)
