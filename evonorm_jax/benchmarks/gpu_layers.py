"""Single layers on a GPU, against its copy bandwidth and against Flax."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.benchmarks import layers
from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, interleave, queued
from evonorm_jax.norm_act import norm_act

#: The stages of a ResNet-50 with as many images as make 103 MB of bfloat16, beyond any cache: a
#: layer then takes a hundred times as long as starting it.
SHAPES = ((256, 56, 56, 64), (512, 28, 28, 128), (1024, 14, 14, 256), (2048, 7, 7, 512))
#: In the order of their worth: what the time does not suffice for is left out from the end.
CASES = (
    *((shape, "bfloat16") for shape in SHAPES),
    ((128, 56, 56, 256), "bfloat16"),
    ((128, 112, 112, 64), "bfloat16"),
    *((shape, "float32") for shape in SHAPES),
)
QUICK_CASES = (((2, 4, 4, 64), "bfloat16"),)

#: What `EvoNorm-S0` would be without the hand-written kernel, which it is on Hopper GPUs.
XLA = "EvoNorm-S0, XLA"
XLA_LAYER = norm_act("evonorm_s0", implementation="xla")

LAUNCH = "an empty program"
LAUNCH_GROUP = "starting a program"
NOTES = (
    *layers.NOTES[:-1],  # the last is about PyTorch, which takes no part
    "On Hopper GPUs `EvoNorm-S0` is the hand-written kernel where this takes the shape; "
    f"`{XLA}` is what the compiler makes of the layer.",
    "Twenty calls of a layer are started before the first is waited for. A layer that takes hardly "
    f"longer than `{LAUNCH}` is limited by the processor that starts it, not by the GPU.",
    f"`{layers.TRANSFERS}` is the time in transfers of x at the measured copy speed: 5 is the "
    "limit of any forward and backward pass.",
)


def measure(options: Options) -> Report:
    """Times every layer at every shape, as far as the time suffices."""
    require_gpu(options)
    deadline = Deadline(options.minutes)
    sampler = functools.partial(queued, calls=2 if options.quick else 20)
    results = _measure_launch(options, sampler)

    def report() -> Report:
        return Report(
            "gpu_layers",
            "Forward and backward pass of a layer on one GPU",
            NOTES,
            tuple(results),
            _comparisons(),
        )

    for shape, dtype in QUICK_CASES if options.quick else CASES:
        if deadline.passed:
            case = "x".join(map(str, shape))
            results += [Result(dtype, case, name, note=deadline.note) for name in contenders()]
            continue
        results += layers.measure_case(
            options,
            shape,
            dtype,
            sampler=sampler,
            layers=contenders(),
            use_torch=False,
            compile_threads=8,
        )
        options.save(report())
    return report()


def contenders() -> Mapping[str, Callable[..., nn.Module]]:
    """Returns the contenders of the layers suite, and EvoNorm-S0 without hand-written kernel."""
    return {**layers.OURS, XLA: XLA_LAYER, **layers.THEIRS}


def _comparisons() -> tuple[tuple[str, str], ...]:
    rivals = ("BN-ReLU, Flax", "EvoNorm-S0, plain", layers.LIMIT)
    return (("EvoNorm-S0", XLA), *layers.COMPARISONS, *((XLA, rival) for rival in rivals))


def _measure_launch(
    options: Options, sampler: Callable[[Callable[[], Any]], Sampler]
) -> list[Result]:
    """Times a call of a program that has nothing to compute."""
    scalar = jnp.zeros(())
    program = jax.jit(jnp.negative).lower(scalar).compile()
    seconds = interleave({LAUNCH: sampler(lambda: program(scalar))}, rounds=options.rounds)
    return [Result(LAUNCH_GROUP, "no work", LAUNCH, seconds[LAUNCH])]
