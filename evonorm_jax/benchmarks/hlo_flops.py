"""FLOPs of convolutions and matrix products in optimised HLO: where the matrix units work."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from evonorm_jax.benchmarks.hlo import Array, Instruction, Module

#: Prefixes of the custom calls into NVIDIA's libraries.
KERNEL_LIBRARIES = ("__cudnn", "__cublas")


def is_product(instruction: Instruction) -> bool:
    """Returns whether the instruction is a convolution or a matrix product."""
    return instruction.opcode in ("convolution", "dot") or instruction.target.startswith(
        KERNEL_LIBRARIES
    )


def count_flops(
    module: Module, instruction: Instruction, arrays: Mapping[str, tuple[Array, ...]]
) -> float:
    """Counts the FLOPs of an instruction and of all that is fused into it.

    A multiplication and an addition count as two. Products with padding and with the holes of a
    dilated operand are left out.

    Args:
      module: Compiled program.
      instruction: Instruction of the program.
      arrays: Results of all instructions of the same computation, by name.
    """
    if is_product(instruction):
        return _product_flops(instruction, arrays)
    total = 0.0
    if instruction.opcode in ("fusion", "async-start"):
        for computation in instruction.called:
            steps = module.computations.get(computation, ())
            inside = {step.name: step.arrays for step in steps}
            total += sum(count_flops(module, step, inside) for step in steps)
    return total


def _product_flops(instruction: Instruction, arrays: Mapping[str, tuple[Array, ...]]) -> float:
    left, right = (arrays[name][0] for name in instruction.operands[:2])
    result = instruction.arrays[0]
    if instruction.opcode == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        dims = [left.dims[int(dim)] for dim in contracted.split(",") if dim]
        return 2.0 * result.size * math.prod(dims)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:  # a library's matrix product: [M, K] x [K, N] -> [M, N]
        return 2.0 * math.sqrt(left.size * right.size * result.size)
    roles = left, right, result
    # A library's gradients carry the labels and the window of the forward convolution.
    if "BackwardInput" in instruction.target:
        roles = result, right, left
    elif "BackwardFilter" in instruction.target:
        roles = left, result, right
    image, kernel, output = (
        dict(zip(names, role.dims, strict=True))
        for names, role in zip(labels.groups(), roles, strict=True)
    )
    pairs = 1
    for place, window in enumerate(_windows(instruction)):
        axis = str(place)
        pairs *= _pairs(image[axis], kernel[axis], output[axis], **window)
    return 2.0 * output["b"] * output["f"] * kernel["i"] * pairs


def _windows(instruction: Instruction) -> list[dict[str, int]]:
    """Returns stride, padding in front and dilations of image and kernel per spatial dimension."""
    text = instruction.attribute(r"window=\{([^}]*)\}")
    fields = dict(field.split("=") for field in text.split())
    count = len(fields.get("size", "").split("x")) if fields else 0
    names = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    values = {
        name: [int(value.split("_")[0]) for value in fields[name].split("x")]
        if name in fields
        else [int(default.split("_")[0])] * count
        for name, default in names.items()
    }
    return [{name: values[name][place] for name in names} for place in range(count)]


def _pairs(
    image: int, kernel: int, output: int, *, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Counts the (output, kernel) positions of a dimension that meet an element of the image.

    >>> _pairs(4, 3, 4, stride=1, pad=1, lhs_dilate=1, rhs_dilate=1)  # 2 + 3 + 3 + 2
    10
    """
    places = np.arange(output)[:, None] * stride + np.arange(kernel) * rhs_dilate - pad
    inside = (places >= 0) & (places <= (image - 1) * lhs_dilate) & (places % lhs_dilate == 0)
    return int(inside.sum())
