"""Training steps of a ResNet-50 on a GPU: images per second, memory, and where the time goes."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.device_profile import profile_step
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.gpu_layers import XLA, XLA_LAYER
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, interleave, queued, spread
from evonorm_jax.benchmarks.train_step import (
    BASELINE,
    CONTENDERS,
    Contender,
    TrainProgram,
    Workload,
    compile_step,
)
from evonorm_jax.errors import UserError

RESNET50 = Workload("resnet50", 224, 1000, 128, "bfloat16")
QUICK_RESNET50 = Workload(
    "resnet50", 16, 10, 2, "bfloat16", {"num_filters": 8, "stage_sizes": (1,)}
)
#: In the order of their worth.
TRAINED: Mapping[str, Contender] = {
    BASELINE: CONTENDERS[BASELINE],
    "EvoNorm-S0": CONTENDERS["EvoNorm-S0"],
    XLA: Contender(XLA_LAYER),
    "EvoNorm-B0": CONTENDERS["EvoNorm-B0"],
    "BN-ReLU": CONTENDERS["BN-ReLU"],
    "GN-ReLU": Contender("gn_relu"),
}
PROFILED = (BASELINE, "EvoNorm-S0", XLA)
NOTES = (
    "A whole step of `make_train_step` on one GPU: augmentation, forward and backward pass, SGD "
    "with momentum; made-up images in device memory. On Hopper GPUs `EvoNorm-S0` is the "
    f"hand-written kernel where this takes the shape, and `{XLA}` does without.",
    "`all memory` is what the compiled step needs at once: state, batch, activations, scratch.",
    "Milliseconds by class are from a trace of three steps; a fusion counts where its last "
    "operation belongs.",
)
#: Seconds that compiling the next step may take, before it is left out.
_COMPILE_SECONDS = 35.0


def measure(options: Options) -> Report:
    """Compiles the steps one by one, samples all of them in turn, and traces some."""
    require_gpu(options)
    deadline = Deadline(options.minutes)
    workload = QUICK_RESNET50 if options.quick else RESNET50
    names = [BASELINE, "EvoNorm-S0"] if options.quick else list(TRAINED)
    programs: dict[str, TrainProgram] = {}
    notes: dict[str, str] = {}
    seconds: dict[str, tuple[float, ...]] = {}
    profiles: dict[str, dict[str, float]] = {}

    def report() -> Report:
        results = [_result(workload, name, programs, seconds, profiles, notes) for name in names]
        return Report(
            "gpu_steps",
            "Training steps of a ResNet-50 on one GPU",
            NOTES,
            tuple(results),
            tuple((name, BASELINE) for name in TRAINED if name != BASELINE),
        )

    for name in names:
        if deadline.remaining < _COMPILE_SECONDS:
            notes[name] = deadline.note
            continue
        start = time.monotonic()
        try:
            # One after the other: the libraries choose their convolutions by timing them.
            programs[name] = compile_step(workload, TRAINED[name])
        except UserError as error:
            notes[name] = str(error)
            continue
        options.log(f"{name} compiled in {time.monotonic() - start:.1f} s")
        # A few rounds of what there is so far, in case that the time ends here.
        seconds = interleave(_samplers(programs), rounds=2)
        options.save(report())
    seconds = interleave(_samplers(programs), rounds=options.rounds)
    options.save(report())
    for name in PROFILED:
        if name in programs and deadline.remaining > 0:
            profiles[name] = profile_step(programs[name].call, programs[name].hlo())
            options.save(report())
    return report()


def _samplers(programs: Mapping[str, TrainProgram]) -> dict[str, Sampler]:
    sampler = functools.partial(queued, calls=2)
    return {name: sampler(program.call) for name, program in programs.items()}


def _result(
    workload: Workload,
    name: str,
    programs: Mapping[str, TrainProgram],
    seconds: Mapping[str, tuple[float, ...]],
    profiles: Mapping[str, Mapping[str, float]],
    notes: Mapping[str, str],
) -> Result:
    if name not in seconds:
        note = notes.get(name, "not reached")
        return Result(workload.name, workload.name, name, note=note)
    figures = {
        "images per second": workload.batch_size / spread(seconds[name]).median,
        **programs[name].figures,
        **profiles.get(name, {}),
    }
    return Result(workload.name, workload.name, name, seconds[name], figures)
