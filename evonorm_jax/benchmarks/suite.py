"""The suites by name, what they share, and the way from a name to written files."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evonorm_jax.benchmarks import machine
from evonorm_jax.benchmarks.report import write_report
from evonorm_jax.benchmarks.results import Report
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections

#: One module each, with `measure(options) -> Report`.
SUITES = (
    "layers",
    "train_step",
    "input",
    "startup",
    "search",
    "gpu",
    "gpu_numbers",
    "gpu_layers",
    "gpu_steps",
    "gpu_cifar10",
    "gpu_transfer",
    "aot",
)

#: Suites whose work is done in processes of their own, which need the memory of the GPU.
IN_PROCESSES = ("gpu", "gpu_cifar10")


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices of the command line.

    Attributes:
      quick: Whether to take tiny shapes and two rounds, to see that a suite runs; its numbers then
        mean nothing. The numbers of the aot suite are exact anyway; it leaves out whole networks.
      data: Root of a class folder for the input suite, which makes JPEGs up for None; path of
        CIFAR-10 as .npz for the search and gpu_cifar10 suites.
      output: Folder of the results of this machine or target. Suites that consist of other suites
        pass it on to them.
      minutes: Minutes that a gpu suite has; it leaves out what does not fit. None sets no limit.
      stages: Names of the stages of the gpu suite to run; () means all.
      target: Target that the aot suite compiles for, a name in `compile_only.TARGETS`.
      programs: Patterns of the names of the programs that the aot suite compiles; () means all.
      load_config: Loads `FILE.py[:ARGUMENT]`, for the gpu_transfer suite.
      log: Takes a line of text as soon as something is measured.
      save: Takes the report as far as it has come, so that a run cut short keeps what it measured.
    """

    quick: bool = False
    data: str | None = None
    output: Path = Path()
    minutes: float | None = None
    stages: tuple[str, ...] = ()
    target: str | None = None
    programs: tuple[str, ...] = ()
    load_config: Callable[[str], ml_collections.ConfigDict] | None = None
    log: Callable[[str], None] = print
    save: Callable[[Report], object] = lambda report: None

    @property
    def rounds(self) -> int:
        """Number of times that every contender is sampled."""
        return 2 if self.quick else 15


def file_stem(name: str, *, quick: bool) -> str:
    """Returns the name of a suite's files without their ending."""
    return f"{name}_quick" if quick else name


def run_suite(name: str, options: Options, output: Path, hardware: str | None = None) -> Report:
    """Measures a suite and writes `<output>/<hardware>/<name>.json`, `.md` and `.png`.

    A quick run writes `<name>_quick.*`, because it must not take the place of a measurement.

    Args:
      name: Name of the suite, one of `SUITES`.
      options: Options of the suite; this function sets their `output` and `save`.
      output: Folder of the results of all machines.
      hardware: Name of this machine's folder. None takes the name of the target, or else derives
        one from the machine.

    Raises:
      UserError: The suite is unknown, the name of the folder is impossible, the suite itself
        refuses its options or the machine, or a part of it has failed; the report of the rest is
        written then.
    """
    if name not in SUITES:
        raise UserError(f"Unknown suite {name!r}: take one of {', '.join(SUITES)}.")
    with machine.no_preallocation() if name in IN_PROCESSES else contextlib.nullcontext():
        if hardware is None:
            hardware = options.target or machine.hardware_name()
        hardware = machine.check_name(hardware)
        before = machine.environment(hardware, quick=options.quick)
    module = importlib.import_module(f"evonorm_jax.benchmarks.{name}")
    stem = file_stem(name, quick=options.quick)
    folder = Path(output) / hardware

    def write(report: Report, *, chart: bool = False) -> list[Path]:
        environment = before | {"load_average_after": machine.load_average()}
        return write_report(report, environment, folder, stem, chart=chart)

    report = module.measure(dataclasses.replace(options, output=folder, save=write))
    paths = write(report, chart=True)
    options.log("\n" + paths[1].read_text())
    options.log("written: " + ", ".join(str(path) for path in paths))
    if report.failure:
        raise UserError(report.failure)
    return report
