"""What is kept and what is written, from shapes and from the optimised program for the CPU."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from tests.kernels.cases import CASES, Case, by_name

SHAPE = (4, 14, 14, 32)


def vjp_residual_bytes(function: Callable[..., Any], operands: tuple[jax.Array, ...]) -> int:
    pull = jax.eval_shape(lambda *operands: jax.vjp(function, *operands)[1], *operands)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_residuals(case: Case, dtype: str) -> None:
    operands = case.operands(SHAPE, dtype)
    assert vjp_residual_bytes(case.call("xla"), operands) <= 1.1 * operands[0].nbytes
    # The plain form keeps several tensors, so the measure can fail.
    assert vjp_residual_bytes(case.call("reference"), operands) > 2 * operands[0].nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_residuals_of_the_smallest_maps(dtype: str) -> None:
    operands = by_name["s0"].operands((8, 7, 7, 512), dtype)
    assert vjp_residual_bytes(by_name["s0"].call(), operands) <= 1.1 * operands[0].nbytes


@functools.cache
def compiled_for_cpu(case: Case, dtype: str, shape: tuple[int, ...] = SHAPE) -> Any:
    operands = case.operands(shape, dtype)

    def step(operands: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(case.call(), *operands)
        y, dy = jax.lax.optimization_barrier((y, dy))
        return y, *pull(dy)

    return jax.jit(step).lower(operands, operands[0]).compile()


def computations(program: str) -> dict[str, list[str]]:
    """The instructions of each computation of an HLO module's text."""
    bodies: dict[str, list[str]] = {}
    for line in program.splitlines():
        if opening := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            body = bodies.setdefault("ENTRY" if opening[1] else opening[2], [])
        elif " = " in line:
            body.append(line)
    return bodies


def shapes(text: str) -> list[tuple[int, ...]]:
    found = re.findall(r"(?:pred|[fsuc]|bf)\d*\[([\d,]*)\]", text)
    return [tuple(int(size) for size in shape.split(",") if size) for shape in found]


# 14x14 divides into short chunks, 7x7 has the layout of its chunks, 11x11 leaves a tail.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "size"),
    [("s0", 14), ("s0", 7), ("s0", 11), ("b0", 14), ("b0", 7), ("gn_silu", 14), ("gn_silu", 7)],
)
def test_cpu_writes_two_tensors(name: str, dtype: str, size: int) -> None:
    shape = (4, size, size, 32)
    program = computations(compiled_for_cpu(by_name[name], dtype, shape).as_text())
    full = np.prod(shape)
    written = []
    for line in program["ENTRY"]:
        result, _, _ = line.split(" = ", 1)[1].partition("(%")
        if not re.search(r"\b(parameter|bitcast|tuple|get-tuple-element)\b", result):
            written += [line for shape in shapes(result) if np.prod(shape) >= full // 2]
    assert len(written) == 2, written  # y and dx


@pytest.mark.parametrize("name", ["s0", "b0", "gn_silu"])
def test_cpu_reductions_are_short_and_keep_the_channels_whole(name: str) -> None:
    program = computations(compiled_for_cpu(by_name[name], "float32").as_text())
    loops = [
        re.search(r"calls=%?([\w.\-]+)", line)[1]
        for line in program["ENTRY"]
        if "kind=kLoop" in line
    ]
    seen = 0
    for name in loops:
        operand_shapes = {
            line.split(" = ")[0].split("%")[-1].strip(): shapes(line.split(" = ")[1])[0]
            for line in program[name]
        }
        for line in program[name]:
            call = re.search(r" reduce\(([^)]*)\), dimensions=\{([\d,]*)\}", line)
            if call is None:
                continue
            operand = operand_shapes[call[1].split(",")[0].split("%")[-1].strip()]
            if np.prod(operand) < np.prod(SHAPE):
                continue
            reduced = [int(axis) for axis in call[2].split(",")]
            assert len(operand) - 1 not in reduced, line
            assert operand[-1] == SHAPE[-1], line
            assert all(operand[axis] <= 8 for axis in reduced), line
            seen += 1
    assert seen == 2  # the moments, and the sums of the backward pass


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 0.8), ("bfloat16", 1.6)])
@pytest.mark.parametrize("name", ["s0", "b0"])
def test_cpu_temporary_memory(name: str, dtype: str, limit: float) -> None:
    compiled = compiled_for_cpu(by_name[name], dtype)
    x_bytes = np.prod(SHAPE) * (4 if dtype == "float32" else 2)
    assert compiled.memory_analysis().temp_size_in_bytes <= limit * x_bytes
