"""What our programs cost on TPUs and GPUs, counted from compiled programs; nothing is timed.

A program is compiled for a target without a device, and its optimised HLO is read. The figures are
the bytes that every kernel moves (for the layers, in passes over x), the copies, the all-reduces,
and the resources of hand-written kernels. The counts are exact and depend only on the program and
the version of the compiler, so a change of the counts shows the effect of a change of the code. The
report also gives the least time that the counts allow.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from evonorm_jax.benchmarks import machine
from evonorm_jax.benchmarks.aot_programs import (
    BASELINE,
    BATCH,
    LAYER_SCOPE,
    LAYERS,
    PALLAS,
    PALLAS_SHORTCUT,
    PLAIN,
    Program,
    choose_programs,
    find_programs,
)
from evonorm_jax.benchmarks.compile_only import TARGETS, Target, find_devices
from evonorm_jax.benchmarks.hlo import parse_module
from evonorm_jax.benchmarks.hlo_traffic import Kernel, find_kernels, total_bytes
from evonorm_jax.benchmarks.layer_program import peak_bytes
from evonorm_jax.benchmarks.mosaic_resources import Resources, record_resources
from evonorm_jax.benchmarks.report import read_results
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.roofline import least_seconds
from evonorm_jax.benchmarks.suite import Options, file_stem
from evonorm_jax.errors import UserError

#: Names of figures that others ask for.
TRAFFIC = "memory traffic, GB"
PASSES = "passes of the layers"
FORWARD = "forward"
PREDICTION = "prediction, ms"
DEAREST = "memory traffic in the dearest branches, GB"

COMPARISONS = (
    *((name, BASELINE) for name in LAYERS if name not in (BASELINE, PLAIN)),
    ("EvoNorm-S0", PLAIN),
    (PALLAS, "EvoNorm-S0"),
    (PALLAS_SHORTCUT, PALLAS),
)
NOTES = (
    f"Compiled, not run, and so without the tuning that needs a device: {BATCH} images a device, "
    f"bfloat16. `{TRAFFIC}` is what all kernels must read and write, each operand and result once, "
    "on one device.",
    f"Where a program chooses between branches as it runs, the one that moves the fewest bytes "
    f"counts; `{DEAREST}` has the others. On a TPU a layer chooses between one pass and two for "
    "its moments: two where the mean of any map is more than 16 times its standard deviation.",
    f"`{PASSES}`: bytes of the kernels in which a norm-activation layer takes part, in bytes of x "
    "over all layers; layers that are fused into a convolution are counted there, not here. "
    f"`{FORWARD}` leaves out the kernels in which the backward pass takes part.",
    "`products` are convolutions and matrix products, with all that is fused into them. `copies` "
    "are other kernels that copy or transpose, inside a layer or not.",
    "`EvoNorm-S0` is what the compiler makes of the layer, "
    f"`{PALLAS}` the hand-written kernel where it takes the shape, the default on Hopper GPUs. In "
    f"`{PALLAS_SHORTCUT}` the kernel adds the gradients of shortcuts too, in blocks without a "
    "projection. This addition then counts among the passes of the layers.",
    f"`{PREDICTION}`: the least time, if every kernel is as fast as memory and matrix units are "
    "by the vendor's figures. Starting kernels and talking to other devices take no time in it. "
    "**It is a prediction; nothing was timed.**",
    "`registers` are the most that a Pallas kernel takes for a thread, `spills` what all of them "
    "store to memory and load again for want of registers. `compile seconds` are of the processor, "
    "and include the `lowering seconds`, in which JAX traces the program and hands it over.",
)
QUICK_NOTICE = (
    "A quick run: layers, blocks and a small network, without the training steps of whole ones. "
    "Its numbers are as exact as theirs."
)


def measure(options: Options) -> Report:
    """Compiles the programs of one target, and saves the report after each.

    Results in the report of an earlier run are kept if that run had the same code and the same
    compilers. So the same command goes on where it was stopped.

    Raises:
      UserError: The target or a program is unknown, or the target's compiler is missing.
    """
    if options.target is None or options.target not in TARGETS:
        raise UserError(
            f"The aot suite needs a target, not {options.target!r}: one of {', '.join(TARGETS)}."
        )
    target = TARGETS[options.target]
    devices = find_devices(target)
    programs = find_programs(target, quick=options.quick)
    chosen = choose_programs(programs, options.programs)
    results = {_key(result): result for result in _earlier_results(options)}
    missing = [program for program in chosen if _key(program) not in results]
    options.log(
        f"{target.name}: {len(missing)} of {len(programs)} programs are to be compiled, "
        f"{len(results)} are known"
    )

    def report() -> Report:
        known = (results.get(_key(program)) for program in programs)
        return Report(
            suite="aot",
            title=f"Programs compiled for {target.name}",
            notes=(*NOTES, f"The chip: {target.published.description}."),
            results=tuple(result for result in known if result is not None),
            comparisons=COMPARISONS,
            headline=TRAFFIC,
            quick_notice=QUICK_NOTICE,
        )

    for program in missing:
        result = compile_program(program, target, devices)
        results[_key(program)] = result
        options.log(f"{program.name}: {_summary(result)}")
        options.save(report())
        jax.clear_caches()  # whole networks are never asked for again
    return report()


def compile_program(program: Program, target: Target, devices: Sequence[jax.Device]) -> Result:
    """Compiles a program and reads its figures; where that fails, the result has a note."""
    start = time.process_time()
    resources: list[Resources] = []
    with contextlib.ExitStack() as stack:
        if target.platform == "gpu":
            resources = stack.enter_context(record_resources())
        try:
            lowered = program.lower(devices)
            lowering_seconds = time.process_time() - start
            compiled = lowered.program.compile()
        except Exception as error:  # of whichever compiler; that it fails is a result
            reason = next(iter(str(error).strip().splitlines()), "")
            note = f"does not compile: {type(error).__name__}: {reason}"
            return Result(program.group, program.case, program.contender, note=note[:300])
    seconds = time.process_time() - start
    module = parse_module(compiled.as_text() or "")
    kernels = find_kernels(module, target.platform, branch=min)
    figures = _traffic_figures(kernels, target, lowered.layer_bytes)
    dearest = total_bytes(find_kernels(module, target.platform, branch=max))
    if dearest != total_bytes(kernels):
        figures[DEAREST] = dearest / 1e9
    memory: Any = compiled.memory_analysis()
    figures |= {
        "peak memory, GB": peak_bytes(compiled) / 1e9,
        "temporaries, GB": memory.temp_size_in_bytes / 1e9,
        **_resource_figures(kernels, resources),
    }
    figures |= {"compile seconds": seconds, "lowering seconds": lowering_seconds}
    return Result(program.group, program.case, program.contender, figures=figures)


def _traffic_figures(
    kernels: Sequence[Kernel], target: Target, layer_bytes: int
) -> dict[str, float]:
    products = [kernel for kernel in kernels if kernel.is_product]
    of_layers = [k for k in kernels if k.is_within(LAYER_SCOPE) and not k.is_product]
    forward = [kernel for kernel in of_layers if not kernel.is_backward(LAYER_SCOPE)]
    copies = [kernel for kernel in kernels if kernel.is_reordering and kernel.bytes]
    reduced = [kernel.all_reduced for kernel in kernels if kernel.all_reduced]
    figures = {
        TRAFFIC: total_bytes(kernels) / 1e9,
        PASSES: total_bytes(of_layers) / layer_bytes,
        FORWARD: total_bytes(forward) / layer_bytes,
        "products, GB": total_bytes(products) / 1e9,
        PREDICTION: 1e3 * least_seconds(kernels, target.published),
        "TFLOP": sum(k.count * k.flops for k in kernels) / 1e12,
        "kernels": sum(kernel.count for kernel in kernels),
        "copies": sum(kernel.count for kernel in copies),
        "copies, GB": total_bytes(copies) / 1e9,
    }
    if target.num_devices > 1:
        figures |= {"all-reduces": len(reduced), "all-reduced, MB": sum(reduced) / 1e6}
    return figures


def _resource_figures(
    kernels: Iterable[Kernel], resources: Sequence[Resources]
) -> dict[str, float]:
    figures: dict[str, float] = {}
    if launches := sum(kernel.count for kernel in kernels if kernel.is_hand_written):
        figures["Pallas kernels"] = launches
    if resources:
        figures |= {
            "registers": max(found.registers for found in resources),
            "spills, bytes": sum(found.spilled for found in resources),
        }
    return figures


def _earlier_results(options: Options) -> list[Result]:
    """Reads the results of an earlier run, unless other code or another compiler made them."""
    path = options.output / f"{file_stem('aot', quick=options.quick)}.json"
    try:
        environment, results = read_results(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        options.log(f"{path} cannot be read and is written anew: {error}")
        return []
    now = machine.environment("", quick=options.quick)
    if any(environment.get(name) != now[name] for name in ("code", "versions", "variables")):
        options.log(f"{path} was made by other code or versions and is written anew")
        return []
    return [result for result in results if not result.note]


def _key(line: Program | Result) -> tuple[str, str, str]:
    return line.group, line.case, line.contender


def _summary(result: Result) -> str:
    if result.note:
        return result.note
    figures = result.figures
    return (
        f"{figures[TRAFFIC]:.3f} GB, {figures[PASSES]:.2f} passes of its layers, "
        f"{figures['compile seconds']:.0f} s"
    )
