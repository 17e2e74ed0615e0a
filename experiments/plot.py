"""Draws the learning curves of one or several runs into one picture.

    python -m experiments.plot RUN [RUN ...] [--output curves.png] [--metric loss eval/top5 ...]

Without --metric there are two panels, loss and top-1 accuracy, each with training and evaluation.
"""

from __future__ import annotations

import argparse

from evonorm_jax.analysis.curves import DEFAULT_MEASURES, plot_runs
from experiments.launch import run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="+", metavar="RUN", help="--workdir of a training run, finished or still going"
    )
    parser.add_argument(
        "--output",
        default="curves.png",
        metavar="FILE",
        help="the picture to write, .png, .svg or .pdf (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        default=list(DEFAULT_MEASURES),
        metavar="NAME",
        help="one panel each: a measure (loss, top1, learning_rate) shows training and evaluation "
        "together, a full name (eval/top5) that metric alone",
    )
    arguments = parser.parse_args()
    output = plot_runs(arguments.run, arguments.output, arguments.metric)
    print(f"Curves of {len(arguments.run)} run(s): {output}")


if __name__ == "__main__":
    run_main(main)
