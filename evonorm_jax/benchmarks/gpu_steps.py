"""Training steps of a ResNet-50 on a GPU: images per second, memory, and where the time goes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping

import jax

from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.device_profile import profile_step
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.gpu_layers import XLA, XLA_LAYER
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import interleave, queued, spread
from evonorm_jax.benchmarks.train_step import (
    BASELINE,
    CONTENDERS,
    Contender,
    TrainProgram,
    Workload,
    compile_step,
)
from evonorm_jax.errors import UserError
from evonorm_jax.norm_act import norm_act

RESNET50 = Workload("resnet50", 224, 1000, 128, "bfloat16")
QUICK_RESNET50 = Workload(
    "resnet50", 16, 10, 2, "bfloat16", {"num_filters": 8, "stage_sizes": (1,)}
)
SHORTCUT = "EvoNorm-S0, Pallas with shortcut"
#: In the order of their worth.
TRAINED: Mapping[str, Contender] = {
    BASELINE: CONTENDERS[BASELINE],
    "EvoNorm-S0": CONTENDERS["EvoNorm-S0"],
    SHORTCUT: Contender(norm_act("evonorm_s0", implementation="pallas_shortcut")),
    XLA: Contender(XLA_LAYER),
    "EvoNorm-B0": CONTENDERS["EvoNorm-B0"],
    "BN-ReLU": CONTENDERS["BN-ReLU"],
    "GN-ReLU": Contender("gn_relu"),
}
PROFILED = (BASELINE, "EvoNorm-S0", XLA)
NOTES = (
    "A whole step of `make_train_step` on one GPU: augmentation, forward and backward pass, SGD "
    "with momentum; made-up images in device memory. On Hopper GPUs `EvoNorm-S0` is the "
    f"hand-written kernel where this takes the shape, and `{XLA}` does without. In `{SHORTCUT}` "
    "the kernel adds the gradients of the shortcuts too, in the 12 of 16 blocks without a "
    "projection.",
    "`all memory` is what the compiled step needs at once: state, batch, activations, scratch.",
    "Milliseconds by class are from a trace of three steps; a fusion counts where its last "
    "operation belongs.",
)
#: Seconds that compiling the next step may take, before it is left out.
_COMPILE_SECONDS = 35.0


@dataclasses.dataclass
class Steps:
    """The steps of one network with several layers, as far as they are compiled and sampled.

    Attributes:
      network: Name of the network in the report.
      compilers: Compiles the step of a layer, by the layer's name.
      programs: The compiled steps.
      seconds: Seconds a step in every round.
      notes: The reasons that a layer has no step.
    """

    network: str
    compilers: Mapping[str, Callable[[], TrainProgram]]
    programs: dict[str, TrainProgram] = dataclasses.field(default_factory=dict)
    seconds: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def measure(
        self,
        options: Options,
        deadline: Deadline,
        save: Callable[[], object],
        *,
        compile_seconds: float = _COMPILE_SECONDS,
    ) -> None:
        """Compiles the steps one by one, and samples all of them in turn.

        Args:
          options: Options of the command line.
          deadline: Limit of the suite.
          save: Is called whenever there is more to report.
          compile_seconds: Seconds that a compilation may take; a step for which less is left is
            left out.
        """
        for name, compile_program in self.compilers.items():
            if deadline.remaining < compile_seconds:
                self.notes[name] = deadline.note
                continue
            start = time.monotonic()
            try:
                # One after the other: the libraries choose their convolutions by timing them.
                self.programs[name] = compile_program()
                # A few rounds of what there is so far, in case that the time ends here.
                self._sample(rounds=2)
            except (UserError, jax.errors.JaxRuntimeError) as error:  # the latter: out of memory
                self.programs.pop(name, None)
                self.notes[name] = str(error).splitlines()[0]
                continue
            seconds = time.monotonic() - start
            options.log(f"{self.network}: {name} compiled and tried in {seconds:.1f} s")
            save()
        self._sample(rounds=options.rounds)
        save()

    def _sample(self, rounds: int) -> None:
        sampler = functools.partial(queued, calls=2)
        samplers = {name: sampler(program.call) for name, program in self.programs.items()}
        self.seconds = interleave(samplers, rounds=rounds)

    def results(self, more: Mapping[str, Mapping[str, float]] | None = None) -> list[Result]:
        """Returns the result of every layer.

        Args:
          more: More figures of single layers, by their name.
        """
        return [self._result(name, (more or {}).get(name, {})) for name in self.compilers]

    def _result(self, name: str, more: Mapping[str, float]) -> Result:
        if name not in self.seconds:
            note = self.notes.get(name, "not reached")
            return Result(self.network, self.network, name, note=note)
        program, seconds = self.programs[name], self.seconds[name]
        figures = {
            "images per second": program.images / spread(seconds).median,
            **program.figures,
            **more,
        }
        return Result(self.network, self.network, name, seconds, figures)


def measure(options: Options) -> Report:
    """Compiles the steps one by one, samples all of them in turn, and traces some."""
    require_gpu(options)
    deadline = Deadline(options.minutes)
    workload = QUICK_RESNET50 if options.quick else RESNET50
    names = [BASELINE, "EvoNorm-S0"] if options.quick else list(TRAINED)
    steps = Steps(
        workload.name,
        {name: functools.partial(compile_step, workload, TRAINED[name]) for name in names},
    )
    profiles: dict[str, dict[str, float]] = {}

    def report() -> Report:
        return Report(
            "gpu_steps",
            "Training steps of a ResNet-50 on one GPU",
            NOTES,
            tuple(steps.results(profiles)),
            (*((name, BASELINE) for name in TRAINED if name != BASELINE), (SHORTCUT, "EvoNorm-S0")),
        )

    steps.measure(options, deadline, lambda: options.save(report()))
    for name in PROFILED:
        if name in steps.programs and deadline.remaining > 0:
            program = steps.programs[name]
            profiles[name] = profile_step(program.call, program.hlo())
            options.save(report())
    return report()
