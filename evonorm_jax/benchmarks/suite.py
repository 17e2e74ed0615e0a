"""The suites by name, what they share, and the way from a name to written files."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

from evonorm_jax.benchmarks import machine
from evonorm_jax.benchmarks.report import write_report
from evonorm_jax.benchmarks.results import Report
from evonorm_jax.errors import UserError

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
)

#: Suites whose work is done in processes of their own, which need the memory of the GPU.
IN_PROCESSES = ("gpu", "gpu_cifar10")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line chooses.

    Attributes:
      quick: tiny shapes and two rounds, to see that a suite runs; its numbers mean nothing.
      data: root of a class folder for the input suite, None makes JPEGs up; CIFAR-10 as .npz for
        the search and gpu_cifar10 suites.
      output: folder of the results of this machine; suites that consist of others hand it on.
      minutes: time for a gpu suite, which leaves out what does not fit; None sets no limit.
      stages: parts of the gpu suite to run; () means all.
      log: takes a line as soon as something is measured.
      save: takes the report as far as it has come, so that a run cut short keeps what it measured.
    """

    quick: bool = False
    data: str | None = None
    output: Path = Path()
    minutes: float | None = None
    stages: tuple[str, ...] = ()
    log: Callable[[str], None] = print
    save: Callable[[Report], object] = lambda report: None

    @property
    def rounds(self) -> int:
        """How often every contender is sampled."""
        return 2 if self.quick else 15


def run_suite(name: str, options: Options, output: Path, hardware: str | None = None) -> Report:
    """Measures a suite and writes `<output>/<hardware>/<name>.json`, `.md` and `.png`.

    A quick run writes `<name>_quick.*`: it must not take the place of a measurement.

    Args:
      name: one of `SUITES`.
      options: see there.
      output: folder of all machines.
      hardware: name of this machine's folder; None derives it.

    Raises:
      UserError: for an unknown suite or an impossible name, and what the suite itself refuses.
    """
    if name not in SUITES:
        raise UserError(f"Unknown suite {name!r}: take one of {', '.join(SUITES)}.")
    with machine.no_preallocation() if name in IN_PROCESSES else contextlib.nullcontext():
        hardware = machine.hardware_name() if hardware is None else machine.check_name(hardware)
        before = machine.environment(hardware, quick=options.quick)
    module = importlib.import_module(f"evonorm_jax.benchmarks.{name}")
    stem = f"{name}_quick" if options.quick else name
    folder = Path(output) / hardware

    def write(report: Report, *, chart: bool = False) -> list[Path]:
        environment = before | {"load_average_after": machine.load_average()}
        return write_report(report, environment, folder, stem, chart=chart)

    options = dataclasses.replace(options, output=folder, save=write)
    report = module.measure(options)
    paths = write(report, chart=True)
    options.log("\n" + paths[1].read_text())
    options.log("written: " + ", ".join(str(path) for path in paths))
    return report
