"""Forward and backward pass of single layers at the four shapes of a ResNet-50, against rivals."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from evonorm_jax.benchmarks import rivals, torch_rivals
from evonorm_jax.benchmarks.layer_program import Inputs, compile_copy, compile_layer, make_inputs
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, blocking, interleave, same_round_ratios
from evonorm_jax.errors import UserError
from evonorm_jax.norm_act import norm_act

#: The stages of a ResNet-50 at 224 pixels; the first one at half the batch, 12.8 MB as the second.
SHAPES = ((16, 56, 56, 64), (32, 28, 28, 128), (32, 14, 14, 256), (32, 7, 7, 512))
QUICK_SHAPES = ((2, 4, 4, 64),)
DTYPES = ("float32", "bfloat16")

#: Reads of x, x and dy, writes of y and dx: no forward and backward pass moves less.
LIMIT_TRANSFERS = 5
LIMIT = f"memory limit, {LIMIT_TRANSFERS} transfers"
#: Figure of a report: the time of a layer in transfers of x.
TRANSFERS = "transfers of x at copy speed"

#: A layer of this project and its like elsewhere.
OURS: Mapping[str, Callable[..., nn.Module]] = {
    "EvoNorm-S0": norm_act("evonorm_s0"),
    "EvoNorm-B0": norm_act("evonorm_b0"),
    "BN-ReLU": norm_act("bn_relu"),
    "GN-ReLU": norm_act("gn_relu"),
}
THEIRS: Mapping[str, Callable[..., nn.Module]] = {
    "EvoNorm-S0, plain": norm_act("evonorm_s0", implementation="reference"),
    "EvoNorm-B0, plain": norm_act("evonorm_b0", implementation="reference"),
    "BN-ReLU, Flax": rivals.FlaxBatchNormReLU,
    "GN-ReLU, Flax": rivals.FlaxGroupNormReLU,
}
EVONORMS = ("EvoNorm-S0", "EvoNorm-B0")
COMPARISONS = (
    *((name, "BN-ReLU, Flax") for name in (*EVONORMS, "BN-ReLU")),
    ("GN-ReLU", "GN-ReLU, Flax"),
    *((name, f"{name}, plain") for name in EVONORMS),
    *((name, f"{name}, {how}") for name in EVONORMS for how in ("timm", "timm compiled")),
    *((name, "BN-ReLU, PyTorch") for name in EVONORMS),
    *((name, LIMIT) for name in OURS),
)
NOTES = (
    "One program gives the output, the new statistics and the gradients of the input and of every "
    "parameter; dy becomes available only after y, as in a network.",
    f"`{LIMIT}` is {LIMIT_TRANSFERS / 2} times the measured time of reading and writing x once: "
    "x for y; x and dy for dx.",
    "Residuals are what the forward pass keeps for the backward pass; temporaries are the scratch "
    "memory of the whole program. Both in bytes of x.",
    "`plain` is the transcription of the paper's formula that XLA gets without fused kernels.",
    "Where the load average is above the cores, PyTorch's threads wait for one another at every "
    "operation: its times are then too long.",
)


def measure(options: Options) -> Report:
    """Times every layer at every shape, in float32 and bfloat16."""
    results: list[Result] = []
    for dtype in DTYPES:
        for shape in QUICK_SHAPES if options.quick else SHAPES:
            results += measure_case(options, shape, dtype, sampler=_sampler(options))
    return Report(
        suite="layers",
        title="Forward and backward pass of a layer",
        notes=NOTES,
        results=tuple(results),
        comparisons=COMPARISONS,
    )


def measure_case(
    options: Options,
    shape: tuple[int, ...],
    dtype: str,
    *,
    sampler: Callable[[Callable[[], Any]], Sampler],
    layers: Mapping[str, Callable[..., nn.Module]] | None = None,
    use_torch: bool = True,
    compile_threads: int = 1,
) -> list[Result]:
    """Compiles all contenders for one shape and dtype, then samples them in turn.

    Args:
      options: Options of the command line, with the number of rounds and where to report.
      shape: Shape of x, `(N, H, W, C)`.
      dtype: Dtype of x; parameters are float32.
      sampler: Makes a sampler of a call.
      layers: Factories of the layers by contender; None means all of this file.
      use_torch: Whether PyTorch and timm take part.
      compile_threads: Number of contenders that are compiled at a time. Compile seconds are those
        of an idle machine only with 1.

    Returns:
      One result for each contender. Where a contender cannot run, its note says why.
    """
    case = "x".join(map(str, shape))
    inputs = make_inputs(shape, dtype)
    samplers = {LIMIT: _scaled(sampler(compile_copy(inputs)), LIMIT_TRANSFERS / 2)}
    figures: dict[str, dict[str, float]] = {}
    notes: dict[str, str] = {}
    factories = {**OURS, **THEIRS} if layers is None else layers
    with concurrent.futures.ThreadPoolExecutor(compile_threads) as pool:
        programs = {
            name: pool.submit(compile_layer, factory(use_running_average=False), inputs)
            for name, factory in factories.items()
        }
    for name, program in programs.items():
        try:
            samplers[name] = sampler(program.result().call)
        except UserError as error:  # a kernel that has no such shape or device
            notes[name] = str(error)
            continue
        except jax.errors.JaxRuntimeError as error:  # one failed compiler must not end the rest
            notes[name] = str(error).partition("\n")[0]
            continue
        figures[name] = program.result().figures
    if use_torch:
        _add_torch(inputs, sampler, samplers, notes)
    seconds = interleave(samplers, rounds=options.rounds)
    options.log(f"{case} {dtype}: {len(samplers)} contenders, {options.rounds} rounds")
    for name in samplers:
        ratio = same_round_ratios(seconds[name], seconds[LIMIT]).median
        figures[name] = {TRANSFERS: LIMIT_TRANSFERS * ratio, **figures.get(name, {})}
    return [
        Result(dtype, case, name, seconds.get(name, ()), figures.get(name, {}), notes.get(name, ""))
        for name in [*samplers, *notes]
    ]


def _add_torch(
    inputs: Inputs,
    sampler: Callable[[Callable[[], Any]], Sampler],
    samplers: dict[str, Sampler],
    notes: dict[str, str],
) -> None:
    for name, make in torch_rivals.RIVALS.items():
        if missing := torch_rivals.missing_package(name):
            notes[name] = f"{missing} is not installed"
        else:
            samplers[name] = sampler(make(inputs))


def _sampler(options: Options) -> Callable[[Callable[[], Any]], Sampler]:
    calls = 1 if options.quick else 6
    return functools.partial(blocking, calls=calls)


def _scaled(sampler: Sampler, factor: float) -> Sampler:
    return lambda: factor * sampler()
