"""CIFAR-10 at an honest length on one GPU: batch sizes, and the paper's proxy task.

The runs are those of two sweeps of `configs/sweeps`, which share the GPU. Their run directories
stay in `<folder of the results>/runs`, for `experiments.plot`. A small network leaves
most of a GPU idle. NVIDIA's Multi-Process Service (MPS), where it runs, lets the kernels of several
runs share it; without it they take turns.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.benchmarks.child_processes import child_processes
from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.gpu import require_gpu, require_images
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options

# Kernels of these networks take a few microseconds however they are written; XLA's compile faster.
_XLA = "--config.model.norm_act_fields.implementation=xla"
#: Name of a sweep: the arguments of its command. 26 epochs are 5,070 updates of 256 images.
SWEEPS: Mapping[str, tuple[str, ...]] = {
    "cifar10_proxy_resnet56": ("--jobs=6", _XLA),
    "cifar10_batch_size": (
        "--jobs=9",
        _XLA,
        "--config.num_epochs=26",
        "--config.eval_every_epochs=2",
        *(
            f"--only={layer}*/images_per_worker={images}/seed=0"
            for layer in ("bn_relu", "evonorm_b0", "evonorm_s0")
            for images in (32, 4, 2)
        ),
    ),
}
QUICK_SWEEPS: Mapping[str, tuple[str, ...]] = {"cifar10_proxy_resnet56": ("--jobs=2",)}
ACCURACY = "test accuracy, %"
NOTES = (
    "`test accuracy` of a run that did not reach its end is that of its last evaluation, at the "
    "step beside it.",
    "The runs shared the GPU: their seconds say nothing about one run alone.",
)
#: Seconds that the runs have to save and end.
_SAVE_SECONDS = 20.0
_POLL_SECONDS = 1.0
_REPORT_SECONDS = 20.0


def measure(options: Options) -> Report:
    """Runs the sweeps at the same time until they end or the time is over.

    Raises:
      UserError: There is no GPU, or no images are named.
    """
    require_gpu(options)
    require_images(options)
    deadline = Deadline(options.minutes)
    runs = options.output / "runs"
    sweeps = QUICK_SWEEPS if options.quick else SWEEPS

    def report(failed: Sequence[str] = ()) -> Report:
        results = [result for name in sweeps for result in sweep_results(name, runs / name)]
        results = results or [Result("none", "none", "none", note="no run has begun")]
        return _report(results, options, failed)

    with child_processes(_SAVE_SECONDS) as start_process:
        processes = []
        for name, arguments in sweeps.items():
            environment = {**os.environ, **_memory_share(sweeps)}
            command = sweep_command(name, arguments, runs / name, options)
            processes.append(start_process(command, env=environment))
        reported = time.monotonic()
        stopped = False
        while any(process.poll() is None for process in processes):
            time.sleep(_POLL_SECONDS)
            if deadline.remaining < _SAVE_SECONDS and not stopped:
                stopped = True
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            if time.monotonic() - reported > _REPORT_SECONDS:
                options.save(report())
                reported = time.monotonic()
    codes = {} if stopped else dict(zip(sweeps, (p.returncode for p in processes), strict=True))
    return report([name for name, code in codes.items() if code])


def sweep_command(
    name: str, arguments: tuple[str, ...], workdir: Path, options: Options
) -> list[str]:
    """Returns the command of one sweep."""
    source = "smoke" if options.quick else "npz"
    command = [sys.executable, "-m", "experiments.sweep"]
    command += ["--config", f"configs/sweeps/{name}.py:{source}", "--workdir", str(workdir)]
    if not options.quick:
        command.append(f"--config.dataset.path={options.data}")
    return [*command, *arguments]


def _memory_share(sweeps: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Returns the variables that keep several sweeps from setting memory aside.

    Each sweep divides the whole memory among its own runs.
    """
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if len(sweeps) > 1 else {}


def _report(results: list[Result], options: Options, failed: Sequence[str]) -> Report:
    # The file is named, because it may be a changed copy, such as cifar10_jpeg.npz.
    data = "fake images" if options.quick else f"CIFAR-10 ({Path(options.data or '').name})"
    failure = f"These sweeps failed, as their output above says: {', '.join(failed)}."
    return Report(
        "gpu_cifar10",
        f"{data} on one GPU",
        NOTES,
        tuple(results),
        comparisons=(),
        headline=ACCURACY,
        failure=failure if failed else "",
    )


def sweep_results(name: str, folder: Path) -> list[Result]:
    """Returns what the runs in the folder of a sweep have reached, finished or not."""
    results = []
    for config_file in sorted(folder.rglob("config.json")):
        workdir = config_file.parent
        rows = _rows(workdir / "metrics.jsonl")
        evaluated = [row for row in rows if "eval/top1" in row]
        if not evaluated:
            continue
        figures = {
            ACCURACY: 100 * evaluated[-1]["eval/top1"],
            "test loss": evaluated[-1]["eval/loss"],
            "at step": float(evaluated[-1]["step"]),
            "finished": float((workdir / "summary.json").exists()),
            "seconds from the first row to the last": rows[-1]["time"] - rows[0]["time"],
        }
        contender = str(workdir.relative_to(folder))
        if not figures["finished"]:  # a bar must say that it is not of the same length
            contender += f", cut off at step {evaluated[-1]['step']:,}"
        results.append(Result(name, name, contender, figures=figures))
    return results


def _rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a run, except the last one if the run is still writing it."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
