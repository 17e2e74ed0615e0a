"""All that is worth knowing of one GPU, measured within minutes in stages with a time limit each.

A stage is a suite of its own and runs in a process of its own, so a kernel that hangs or crashes
costs its stage alone. Every stage writes what it has measured after each step.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from evonorm_jax.benchmarks.child_processes import child_processes
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the suite.

    Attributes:
      name: Name of the stage in `--stages`; its suite is `gpu_<name>`.
      minutes: Time limit of the stage in minutes, where the whole suite has 13.
      needs_data: Whether the stage reads real images (`--data`).
    """

    name: str
    minutes: float
    needs_data: bool = False


#: In the order of their worth: the time that an early stage leaves over goes to the later ones.
STAGES = (
    Stage("numbers", 1.6),
    Stage("layers", 2.0),
    Stage("steps", 3.6),
    Stage("cifar10", 5.8, needs_data=True),
)

#: Seconds that a stage has between the request to end and its end.
GRACE = 10.0
FINISHED = "finished"
CUT_SHORT = "cut short"
STARTED = "stages"
NOTES = (
    "Each stage is a suite of its own, `gpu_<stage>`, with its own files beside this one.",
    "Seconds are those of the whole process of a stage: imports, compiling and measuring.",
)


def measure(options: Options) -> Report:
    """Runs the stages in processes of their own, each within its limit.

    A stage that fails costs its own results alone; the report's `failure` names it.

    Raises:
      UserError: A stage is unknown, the time is not positive, the real images are missing, or there
        is no GPU.
    """
    stages = chosen_stages(options.stages)
    if options.minutes is not None and not options.minutes > 0:
        raise UserError(f"--minutes={options.minutes} must be positive, such as --minutes=13.")
    if any(stage.needs_data for stage in stages):
        others = ",".join(stage.name for stage in STAGES if not stage.needs_data)
        require_images(options, f", or leave the stage out, such as --stages={others}")
    require_gpu(options)
    budget = 60 * (options.minutes or sum(stage.minutes for stage in STAGES))
    share = budget / (60 * sum(stage.minutes for stage in stages))
    start, spare = time.monotonic(), 0.0
    results: list[Result] = []
    unfinished: dict[str, str] = {}

    def report() -> Report:
        ends = (f"{name}: {outcome}." for name, outcome in unfinished.items())
        return Report(
            "gpu",
            "Stages on one GPU",
            (*NOTES, *ends),
            tuple(results),
            comparisons=(),
            failure=_failure(unfinished),
        )

    for stage in stages:
        left = budget - (time.monotonic() - start)
        limit = min(left, 60 * share * stage.minutes + spare)
        options.log(f"{stage.name}: at most {limit:.0f} s")
        seconds, outcome = run_stage(stage, options, limit)
        spare = max(0.0, limit - seconds)
        figures = {"limit, s": limit, "finished": float(outcome == FINISHED)}
        results.append(Result(STARTED, "seconds", stage.name, (seconds,), figures))
        if outcome != FINISHED:
            unfinished[stage.name] = outcome
        options.log(f"{stage.name}: {outcome} after {seconds:.0f} s")
        options.save(report())
    return report()


def chosen_stages(names: tuple[str, ...]) -> tuple[Stage, ...]:
    """Returns the stages of these names, in the order of `STAGES`; all of them for ().

    Raises:
      UserError: A name is unknown.
    """
    known = tuple(stage.name for stage in STAGES)
    for name in names:
        if name not in known:
            raise UserError(f"--stages: {name!r} is unknown, take any of {','.join(known)}.")
    return tuple(stage for stage in STAGES if not names or stage.name in names)


def run_stage(stage: Stage, options: Options, limit: float) -> tuple[float, str]:
    """Runs one stage and waits for it.

    Args:
      stage: Stage to run.
      options: Options of the command line.
      limit: Seconds that the stage may take. It is asked to end `GRACE` seconds earlier, and killed
        if it does not.

    Returns:
      The seconds that it took, and the outcome: "finished", "cut short", "killed" or
      "failed (exit code N)".
    """
    command = stage_command(stage, options, limit)
    start = time.monotonic()
    outcome = FINISHED
    with child_processes(GRACE) as start_process:
        process = start_process(command)
        try:
            process.wait(max(1.0, limit - GRACE))
        except subprocess.TimeoutExpired:
            outcome = CUT_SHORT
    if outcome == CUT_SHORT and process.returncode == -signal.SIGKILL:
        outcome = "killed"
    if outcome == FINISHED and process.returncode:
        outcome = f"failed (exit code {process.returncode})"
    return time.monotonic() - start, outcome


def _failure(unfinished: Mapping[str, str]) -> str:
    """Says which stages have failed; one that was cut short has only had too little time."""
    failed = {name: outcome for name, outcome in unfinished.items() if outcome != CUT_SHORT}
    if not failed:
        return ""
    return (
        f"Not all stages came to their end: {', '.join(f'{n} {end}' for n, end in failed.items())}."
        " What each of them said stands above, and what they had measured is kept. Run them again "
        f"by --stages={','.join(failed)}."
    )


def stage_command(stage: Stage, options: Options, limit: float) -> list[str]:
    """Returns the command of a stage, which writes its files beside those of this suite."""
    output: Path = options.output
    command = [sys.executable, "-m", "experiments.benchmark", "--suite", f"gpu_{stage.name}"]
    command += ["--output", str(output.parent), "--hardware", output.name]
    # What a stage does after its last step, and its imports, take part of its time.
    command += ["--minutes", f"{max(limit - 2 * GRACE, 1) / 60:.3f}"]
    if options.data is not None and stage.needs_data:
        command += ["--data", options.data]
    return [*command, "--quick"] if options.quick else command


def require_images(options: Options, otherwise: str = "") -> None:
    """Refuses to train without CIFAR-10; a quick run makes images up.

    Args:
      options: Options of the suite.
      otherwise: What else the user may do, for the message.

    Raises:
      UserError: The options name no images, and the run is not a quick one.
    """
    if options.data is None and not options.quick:
        raise UserError(
            "The stage cifar10 trains on real images: name CIFAR-10 as .npz, such as "
            f"--data=data/cifar10.npz (docs/speed.md says how to make the file){otherwise}."
        )


def require_gpu(options: Options) -> None:
    """Refuses a machine without a GPU; a quick run accepts whatever there is.

    Raises:
      UserError: JAX has no GPU, and the run is not a quick one.
    """
    if jax.default_backend() != "gpu" and not options.quick:
        raise UserError(
            f"This suite needs a GPU, and JAX computes on {jax.devices()[0].device_kind} here: "
            'install JAX for it (pip install "jax[cuda12]"), do not set JAX_PLATFORMS=cpu, or take '
            "another suite."
        )
