"""Measures this project against its rivals, side by side in one interleaved run.

    python -m experiments.benchmark --suite layers

suites:
  layers      forward and backward pass of a layer at ResNet-50's shapes, on this machine
  train_step  training step of small networks: time, compile time, memory
  input       images per second of the data pipelines, with and without prefetch
  startup     seconds from the start of the process to the first training step
  search      candidates of the layer search decided per hour (an hour; needs --data)
  gpu         numbers, layers, ResNet-50 steps and CIFAR-10 on one GPU, in --minutes; its stages are
              suites of their own: gpu_numbers, gpu_layers, gpu_steps, gpu_cifar10

Writes <output>/<hardware>/<suite>.json, .md and .png. On a CPU with glibc it starts itself anew
with an allocator that keeps freed memory (experiments/allocator.py says why).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.allocator import tune_allocator


def main() -> None:
    """Parses the command line and measures one suite."""
    import jax

    from evonorm_jax.benchmarks import suite

    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--suite", required=True, choices=suite.SUITES)
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help="folder of the results (default: the GPU, or the processor and its cores)",
    )
    parser.add_argument(
        "--output", default="results/benchmarks", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="input suite: class folder to read (default: made-up JPEGs); search and gpu suites: "
        "CIFAR-10 as .npz",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="gpu suites: time for all of it, what does not fit is left out (default for gpu: 13)",
    )
    parser.add_argument(
        "--stages",
        default="",
        metavar="A,B",
        help="gpu suite: only these of numbers, layers, steps and cifar10",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny shapes and two rounds, written as <suite>_quick.*; its numbers mean nothing",
    )
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    options = suite.Options(
        quick=arguments.quick,
        data=arguments.data,
        minutes=arguments.minutes,
        stages=tuple(filter(None, arguments.stages.split(","))),
    )
    suite.run_suite(arguments.suite, options, Path(arguments.output), arguments.hardware)


if __name__ == "__main__":
    tune_allocator()
    from experiments import launch  # imports JAX, so after the new start

    launch.run_main(main)
