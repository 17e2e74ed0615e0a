"""Seconds that a user waits until training has begun, each measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import interleave
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import METRICS_FILE, read_json_lines

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/digits_resnet_evonorm_s0.py"

INTERPRETER = "Python alone"
LAYERS_IMPORT = "import evonorm_jax"
TRAINING_IMPORT = "imports of experiments.train"
COLD = "first step, empty compile cache"
WARM = "first step, filled compile cache"
IMPORTS = {
    INTERPRETER: "pass",
    LAYERS_IMPORT: "import evonorm_jax",
    TRAINING_IMPORT: "import experiments.train, evonorm_jax.training",
}
COMPARISONS = ((WARM, COLD), (TRAINING_IMPORT, WARM), (LAYERS_IMPORT, TRAINING_IMPORT))
NOTES = (
    f"`first step ...`: from the start of `python -m experiments.train --config {CONFIG}` to the "
    "moment the first training step is done and its loss logged: imports, data, initialisation, "
    "compilation, one step.",
    "The imports: a process from beginning to end. All files are in the page cache.",
)


def measure(options: Options) -> Report:
    """Times whole processes in turn.

    Raises:
      UserError: The package is installed without the launchers and configs of a clone.
    """
    if not (ROOT / CONFIG).exists():
        raise UserError(
            f"The startup suite starts experiments.train with {CONFIG}, and {ROOT} has no such "
            "file: run it in a clone of the repository."
        )
    config = CONFIG + (":smoke" if options.quick else "")
    rounds = 1 if options.quick else max(5, options.rounds // 3)
    with tempfile.TemporaryDirectory(prefix="evonorm_jax_") as scratch:
        samplers = {name: _import_seconds(code) for name, code in IMPORTS.items()}
        samplers |= _first_step_samplers(config, Path(scratch))
        seconds = interleave(samplers, rounds=rounds)
    options.log(f"{len(samplers)} contenders, {rounds} rounds")
    return Report(
        suite="startup",
        title="Time to the first training step",
        notes=NOTES,
        results=tuple(
            Result("seconds from the start of the process", "digits", name, times)
            for name, times in seconds.items()
        ),
        comparisons=COMPARISONS,
    )


def _import_seconds(code: str) -> Callable[[], float]:
    def sample() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return time.perf_counter() - start

    return sample


def _first_step_samplers(config: str, scratch: Path) -> dict[str, Callable[[], float]]:
    """Returns the samplers of the first step by contender.

    A cold run gets a new compile cache; a warm run gets that of the last cold run.
    """
    runs = 0

    def first_step(cache: Path) -> float:
        workdir = Path(tempfile.mkdtemp(dir=scratch))
        return first_step_seconds(config, workdir / "run", cache)

    def cold() -> float:
        nonlocal runs
        runs += 1
        return first_step(scratch / f"cache_{runs}")

    def warm() -> float:
        return first_step(scratch / f"cache_{runs}")

    return {COLD: cold, WARM: warm}


def first_step_seconds(config: str, workdir: Path, cache: Path) -> float:
    """Trains one step in a process of its own, and measures how long that takes.

    Returns:
      The seconds from the start of the process to the first logged row.

    Raises:
      UserError: The process fails; the message has the end of its error output.
    """
    command = [sys.executable, "-m", "experiments.train", f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.num_epochs=0", "--config.num_steps=1"]
    command += ["--config.schedule.warmup_epochs=0", "--config.log_every_steps=1"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.time()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    first = next(line.row for line in read_json_lines(workdir / METRICS_FILE) if line.row)
    return first["time"] - start
