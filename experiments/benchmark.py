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
  gpu_transfer  steps of Mask R-CNN at 1024 pixels and BigGAN-deep at 128 on one GPU: images per
              second and memory, in --minutes
  aot         what programs cost on TPUs and GPUs by their compilers' count, without a device (needs
              the aot extra): training steps of whole networks, about half a minute each for a GPU
              and six for a TPU; with --quick layers, blocks and a small network. Name --targets:
              all eleven, nine of them TPUs with 15 programs each, take about half a day. Kept after
              each program; the same command goes on where it was stopped.

Writes <output>/<hardware>/<suite>.json, .md and .png. On a CPU with glibc it starts itself anew
with an allocator that keeps freed memory (experiments/allocator.py says why).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools

from experiments.allocator import tune_allocator

_GPU_SUITES = ("gpu", "gpu_numbers", "gpu_layers", "gpu_steps", "gpu_cifar10", "gpu_transfer")
#: The suites that take an option, for options that not all of them take.
SUITES_OF_OPTIONS = {
    "data": ("input", "search", "gpu", "gpu_cifar10"),
    "minutes": _GPU_SUITES,
    "stages": ("gpu",),
    "targets": ("aot",),
    "programs": ("aot",),
}


def main() -> None:
    """Parses the command line and measures one suite."""
    import jax

    from evonorm_jax.benchmarks import compile_only, suite
    from evonorm_jax.errors import UserError
    from experiments.config_file import ROOT
    from experiments.launch import parse_config, user_path

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
        "--output",
        type=user_path,
        default="results/benchmarks",
        metavar="DIR",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--data",
        type=user_path,
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
        "--targets",
        default="",
        metavar="A,B",
        help="aot suite: only the targets that match, such as h100,tpu-v5e-*; each has a folder of "
        "its own (default: all whose compiler is installed, about half a day with both)",
    )
    parser.add_argument(
        "--programs",
        default="",
        metavar="A,B",
        help="aot suite: only the programs that match, such as resnet50/*,*/evonorm-s0",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny shapes and two rounds, written as <suite>_quick.*; its numbers mean nothing, "
        "but those of aot do",
    )
    arguments = parser.parse_args()
    for option, suites in SUITES_OF_OPTIONS.items():
        is_given = getattr(arguments, option) != parser.get_default(option)
        if is_given and arguments.suite not in suites:
            raise UserError(
                f"--{option} belongs to --suite {' or '.join(suites)}, not to {arguments.suite}: "
                "leave it out."
            )
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    options = suite.Options(
        quick=arguments.quick,
        data=arguments.data and str(arguments.data),
        minutes=arguments.minutes,
        stages=_names(arguments.stages),
        programs=_names(arguments.programs),
        load_config=lambda file: parse_config(str(ROOT / file), []),
        log=functools.partial(print, flush=True),  # a suite may take hours
    )
    output = arguments.output
    if arguments.suite != "aot":
        suite.run_suite(arguments.suite, options, output, arguments.hardware)
        return
    if arguments.hardware:
        raise UserError(
            "--hardware names a machine that measures; the aot suite names the folders of its "
            "results after its targets."
        )
    # A GPU that is there would tune the programs, and a TPU would be taken from others.
    jax.config.update("jax_platforms", "cpu")
    for target in compile_only.choose_targets(_names(arguments.targets)):
        suite.run_suite("aot", dataclasses.replace(options, target=target.name), output)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


if __name__ == "__main__":
    tune_allocator()
    from experiments.process import run_main  # imports JAX, so after the new start

    run_main(main)
