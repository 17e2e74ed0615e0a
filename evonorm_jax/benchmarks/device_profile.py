"""Where a compiled program spends its time on a device: convolutions, layers, the rest."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

CONVOLUTIONS = "convolutions, ms a step"
LAYERS = "norm-activation layers, ms a step"
REST = "everything else, ms a step"
KERNELS = "kernels a step"

_INSTRUCTION = re.compile(r"%?([\w.\-]+) = .*op_name=\"([^\"]*)\"")
# Modules of the networks: stem_norm, stage1_block1/norm1, head_norm; and the hand-written kernels.
_LAYER = re.compile(r"norm\d?/|evonorm_s0_(forward|backward)|fused_layer")
_CONVOLUTION = re.compile(r"conv_general_dilated|dot_general")


def profile_step(call: Callable[[], Any], hlo: str, *, steps: int = 3) -> dict[str, float]:
    """Measures milliseconds a step by class of kernel, from a trace of the device.

    A fusion counts where its root instruction belongs. Kernels that the compiled program does not
    name come from the libraries of convolutions and matrix products.

    Args:
      call: Makes one step and returns a result to wait for.
      hlo: Text of the compiled program.
      steps: Number of steps to trace.

    Returns:
      The figures `CONVOLUTIONS`, `LAYERS`, `REST` and `KERNELS`; {} if the trace holds no device.
    """
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                result = call()
            jax.block_until_ready(result)
        events = [event for path in Path(folder).rglob("*.xplane.pb") for event in _events(path)]
    if not events:
        return {}
    return summarize_kernels(events, hlo, steps=steps)


def summarize_kernels(
    events: list[tuple[str, str, float]], hlo: str, *, steps: int
) -> dict[str, float]:
    """Sums up the events of a trace as `profile_step` does.

    Args:
      events: Kernels as `(kernel, instruction, seconds)`; the instruction may be "".
      hlo: Text of the compiled program.
      steps: Number of steps in the trace.
    """
    scopes = instruction_scopes(hlo)
    sums = dict.fromkeys((CONVOLUTIONS, LAYERS, REST), 0.0)
    for kernel, instruction, seconds in events:
        sums[classify(kernel, instruction, scopes)] += 1e3 * seconds / steps
    return {**sums, KERNELS: len(events) / steps}


def instruction_scopes(hlo: str) -> dict[str, str]:
    """Returns the module path that each instruction comes from.

    The keys are the names of the instructions in the form in which kernels are named after them.

    >>> instruction_scopes('%add.1 = f32[2]{0} add(%a, %b), metadata={op_name="jit(f)/norm1/add"}')
    {'add_1': 'jit(f)/norm1/add'}
    """
    return {_kernel_name(name): scope for name, scope in _INSTRUCTION.findall(hlo)}


def classify(kernel: str, instruction: str, scopes: Mapping[str, str]) -> str:
    """Returns the class of one kernel: `CONVOLUTIONS`, `LAYERS` or `REST`.

    Args:
      kernel: Name of the kernel.
      instruction: Name of the instruction that the kernel belongs to; "" where the trace does not
        know it.
      scopes: Module paths by instruction, as `instruction_scopes` returns them.
    """
    scope = scopes.get(_kernel_name(instruction)) or scopes.get(_kernel_name(kernel))
    if _LAYER.search(kernel) or (scope and _LAYER.search(scope)):
        return LAYERS
    if scope is None or _CONVOLUTION.search(scope):
        return CONVOLUTIONS if not kernel.lower().startswith(("memcpy", "memset")) else REST
    return REST


def _events(path: Path) -> list[tuple[str, str, float]]:
    events = []
    with warnings.catch_warnings():
        # `event.stats` has no __module__, which Python 3.12 warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue  # lines that group the same kernels by module or operation
                for event in line.events:
                    stats = dict(event.stats)
                    events.append(
                        (event.name, str(stats.get("hlo_op", "")), event.duration_ns / 1e9)
                    )
    return events


def _kernel_name(name: str) -> str:
    return re.sub(r"[.\-]", "_", name.lstrip("%"))
