"""All that is worth knowing of one GPU, in less than nine minutes: layers, and ResNet-50 steps."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.benchmarks import layers
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, interleave, queued
from evonorm_jax.benchmarks.train_step import (
    BASELINE,
    CONTENDERS,
    Contender,
    Workload,
    measure_workload,
)
from evonorm_jax.errors import UserError
from evonorm_jax.norm_act import norm_act

#: At batch 256 the first stage's x alone (103 MB in bfloat16) is beyond any cache.
SHAPES = (
    (256, 56, 56, 64),
    (64, 56, 56, 64),
    (256, 28, 28, 128),
    (256, 14, 14, 256),
    (256, 7, 7, 512),
)
#: In the order of their worth: what the time does not suffice for is left out from the end.
CASES = (*((shape, "bfloat16") for shape in SHAPES), (SHAPES[0], "float32"))
QUICK_CASES = (((2, 4, 4, 64), "bfloat16"),)

RESNET50 = Workload("resnet50", 224, 1000, 128, "bfloat16")
QUICK_RESNET50 = Workload(
    "resnet50", 16, 10, 2, "bfloat16", {"num_filters": 8, "stage_sizes": (1,)}
)
#: The hand-written kernel, which refuses the shapes that it cannot take.
PALLAS = "EvoNorm-S0, Pallas"
PALLAS_LAYER = norm_act("evonorm_s0", implementation="pallas")

TRAINED: Mapping[str, Contender] = {
    BASELINE: CONTENDERS[BASELINE],
    "BN-ReLU": CONTENDERS["BN-ReLU"],
    "EvoNorm-S0": CONTENDERS["EvoNorm-S0"],
    "EvoNorm-B0": CONTENDERS["EvoNorm-B0"],
    PALLAS: Contender(PALLAS_LAYER),
    "GN-ReLU": Contender("gn_relu"),
}

#: Seconds after which no further part is begun; the longest part takes about a minute.
BUDGET = 420.0
LAUNCH = "an empty program"
LAUNCH_GROUP = "starting a program"
NOTES = (
    *layers.NOTES[:-1],  # the last is about PyTorch, which takes no part
    "Twenty calls of a layer are started before the first is waited for. A layer that takes hardly "
    f"longer than `{LAUNCH}` is limited by the processor that starts it, not by the GPU.",
    "`all memory` is what the compiled step needs at once: state, batch, activations, scratch.",
)


def measure(options: Options) -> Report:
    """Measures layers and training steps on a GPU.

    Raises:
      UserError: on a machine without one.
    """
    if jax.default_backend() != "gpu":
        raise UserError(
            f"The gpu suite needs a GPU, and JAX computes on {jax.devices()[0].device_kind} here: "
            'install JAX for it (pip install "jax[cuda12]"), do not set JAX_PLATFORMS=cpu, or take '
            "another suite."
        )
    return measure_device(options)


def measure_device(options: Options) -> Report:
    """As `measure`, on whatever device there is."""
    start = time.perf_counter()
    sampler = functools.partial(queued, calls=2 if options.quick else 20)
    results = _measure_launch(options, sampler)
    contenders = _layers()
    cases = list(QUICK_CASES if options.quick else CASES)

    def measure_layers(shape: tuple[int, ...], dtype: str) -> list[Result]:
        return layers.measure_case(
            options, shape, dtype, sampler=sampler, layers=contenders, use_torch=False
        )

    results += measure_layers(*cases.pop(0))
    workload = QUICK_RESNET50 if options.quick else RESNET50
    trained = {name: TRAINED[name] for name in (list(TRAINED)[:1] if options.quick else TRAINED)}
    results += measure_workload(
        options, workload, trained, sampler=functools.partial(queued, calls=2)
    )
    for shape, dtype in cases:
        if time.perf_counter() - start > BUDGET:
            case = "x".join(map(str, shape))
            note = f"not run: {BUDGET:.0f} s were over"
            results += [Result(dtype, case, name, note=note) for name in contenders]
        else:
            results += measure_layers(shape, dtype)
    return Report(
        suite="gpu",
        title="Layers and training steps on one GPU",
        notes=NOTES,
        results=tuple(results),
        comparisons=_comparisons(),
    )


def _layers() -> dict[str, Callable[..., nn.Module]]:
    """The contenders of the layers suite, and the hand-written kernel."""
    return {**layers.OURS, PALLAS: PALLAS_LAYER, **layers.THEIRS}


def _comparisons() -> tuple[tuple[str, str], ...]:
    pallas = tuple(
        (PALLAS, rival)
        for rival in ("EvoNorm-S0", "BN-ReLU, Flax", "EvoNorm-S0, plain", layers.LIMIT)
    )
    trained = tuple((name, BASELINE) for name in TRAINED if name != BASELINE)
    return (*layers.COMPARISONS, *pallas, *trained)


def _measure_launch(
    options: Options, sampler: Callable[[Callable[[], Any]], Sampler]
) -> list[Result]:
    """What a call costs that has nothing to compute."""
    scalar = jnp.zeros(())
    program = jax.jit(jnp.negative).lower(scalar).compile()
    seconds = interleave({LAUNCH: sampler(lambda: program(scalar))}, rounds=options.rounds)
    return [Result(LAUNCH_GROUP, "no work", LAUNCH, seconds[LAUNCH])]
