"""What a compiled program moves through memory, kernel by kernel, read off its optimised HLO.

Bytes are those that a kernel must read from and write to main memory: every operand once, every
result once, padding included. Where a fusion only slices an operand, the slices count; where it
updates a result in place, the update counts. Caches are not modelled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

from evonorm_jax.benchmarks.hlo import Array, Instruction, Module
from evonorm_jax.benchmarks.hlo_flops import KERNEL_LIBRARIES, count_flops, is_product

#: The memory spaces of the main memory (HBM): on a TPU number 1 is on the chip, on a GPU it is the
#: part of the main memory that collectives may use.
MAIN_MEMORY: Mapping[str, frozenset[int]] = {
    "tpu": frozenset({0}),
    "gpu": frozenset({0, 1}),
    "cpu": frozenset({0}),
}

#: They start no kernel: names for memory that exists, or what is known when compiling.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "partition-id", "replica-id"),
        *("tuple", "get-tuple-element", "bitcast", "domain"),
        *("opt-barrier", "optimization-barrier", "after-all", "add-dependency"),
    )
)
_FREE_TARGETS = frozenset(
    (
        *("ConcatBitcast", "AllocateBuffer"),
        *("Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"),
    )
)
#: Prefixes of the custom calls of Pallas kernels.
_HAND_WRITTEN = ("mosaic_gpu", "tpu_custom_call", "__gpu$xla.gpu.triton")
_SLICES = ("slice", "dynamic-slice", "gather")
_IN_PLACE = "dynamic-update-slice"
#: An element of the result needs the same element of each operand alone. Where a fusion uses a
#: slice of the result, it reads that slice of the operand.
_ELEMENTWISE = frozenset(
    (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power"),
        *("negate", "abs", "convert", "exponential", "log", "logistic", "rsqrt", "sqrt", "tanh"),
    )
)

Arrays = Mapping[str, tuple[Array, ...]]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel that a program launches.

    Attributes:
      instruction: Instruction that launches the kernel.
      inner: Instructions that are fused into it.
      read: Bytes that one run reads.
      written: Bytes that one run writes.
      flops: FLOPs of one run, of the convolutions and matrix products in it.
      count: Number of runs, which is that of the trips of the loops around it.
    """

    instruction: Instruction
    inner: tuple[Instruction, ...]
    read: int
    written: int
    flops: float
    count: int = 1

    @property
    def bytes(self) -> int:
        """Bytes that are read and written, over all its runs."""
        return self.count * (self.read + self.written)

    @functools.cached_property
    def op_names(self) -> frozenset[str]:
        """Paths of scopes in the traced program that its instructions come from."""
        return frozenset(step.op_name for step in (self.instruction, *self.inner) if step.op_name)

    @property
    def is_product(self) -> bool:
        """Whether there is a convolution or a matrix product in it."""
        return any(is_product(step) for step in (self.instruction, *self.inner))

    @property
    def is_reordering(self) -> bool:
        """Whether it copies or transposes, and computes no product."""
        steps = (self.instruction, *self.inner)
        return not self.is_product and any(step.opcode in ("copy", "transpose") for step in steps)

    @property
    def is_hand_written(self) -> bool:
        """Whether it is a Pallas kernel."""
        return self.instruction.target.startswith(_HAND_WRITTEN)

    @property
    def all_reduced(self) -> int:
        """Bytes that it sums over devices, over all its runs; 0 for any other kernel."""
        if self.instruction.opcode not in ("all-reduce", "all-reduce-start"):
            return 0
        # A started one lists its operands before its results.
        results = self.instruction.arrays[-len(self.instruction.operands) :]
        return self.count * sum(array.bytes for array in results)

    def is_within(self, scope: str) -> bool:
        """Returns whether part of it was traced inside `jax.named_scope(scope)`."""
        return any(scope in name for name in self.op_names)

    def is_backward(self, scope: str) -> bool:
        """Returns whether part of it was traced inside the scope and transposed for gradients."""
        return any(scope in name and "transpose(" in name for name in self.op_names)


def find_kernels(
    module: Module,
    platform: str,
    *,
    branch: Callable[..., list[Kernel]] = max,
) -> list[Kernel]:
    """Returns the kernels of one run of a program.

    The kernels of a loop count as often as it runs where the compiler knows that, else once.

    Args:
      module: Compiled program.
      platform: Platform that it is compiled for: "tpu", "gpu" or "cpu".
      branch: Chooses the branch of a conditional that runs: the one that moves the most bytes
        (`max`) or the fewest (`min`).
    """
    return _Walk(module, MAIN_MEMORY[platform], branch).kernels(module.entry, count=1)


def total_bytes(kernels: Iterable[Kernel]) -> int:
    """Returns the bytes that all of the kernels read and write."""
    return sum(kernel.bytes for kernel in kernels)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """A walk through the computations of a module; see `find_kernels`."""

    module: Module
    main_memory: frozenset[int]
    branch: Callable[..., list[Kernel]]

    def kernels(self, computation: str, count: int) -> list[Kernel]:
        found: list[Kernel] = []
        instructions = self.module.computations.get(computation, ())
        arrays = {instruction.name: instruction.arrays for instruction in instructions}
        for instruction in instructions:
            opcode = instruction.opcode
            if opcode in _FREE or opcode.endswith(("-done", "-update")):
                continue
            if opcode == "call":
                found += self.kernels(instruction.called[0], count)
            elif opcode == "while":
                trips = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
                for name in instruction.called:  # the condition and the body
                    found += self.kernels(name, count * int(trips or 1))
            elif opcode == "conditional":
                branches = [self.kernels(name, count) for name in instruction.called]
                found += self.branch(branches, key=total_bytes)
            elif instruction.target not in _FREE_TARGETS:
                found.append(
                    Kernel(
                        instruction,
                        self.module.inner(instruction),
                        self._read(instruction, arrays),
                        self._written(instruction),
                        count_flops(self.module, instruction, arrays),
                        count,
                    )
                )
        return found

    def _size(self, arrays: Iterable[Array]) -> int:
        return sum(array.bytes for array in arrays if array.space in self.main_memory)

    def _read(self, instruction: Instruction, arrays: Arrays) -> int:
        if instruction.opcode == "slice-start":  # ((operand), result, context)
            operand, result = instruction.arrays[:2]
            return result.bytes if operand.space in self.main_memory else 0
        total = 0
        for name in dict.fromkeys(instruction.operands):  # one that is named twice is read once
            size = self._size(arrays.get(name, ()))
            if size and instruction.opcode == "fusion":
                size = min(size, self._read_inside(instruction, name, size))
            elif instruction.opcode in _SLICES and name == instruction.operands[0]:
                size = min(size, _bytes(instruction.arrays))
            total += size
        return total

    def _read_inside(
        self, fusion: Instruction, operand: str, size: int, *, is_computed: bool = False
    ) -> int:
        """Returns the bytes that a fusion reads of an operand of `size` bytes."""
        body = self.module.computations[fusion.called[0]]
        total = 0
        for place, name in enumerate(fusion.operands):
            if name == operand:
                parameter = next(
                    p for p in body if p.opcode == "parameter" and p.operands == (str(place),)
                )
                total += self._read_by_users(body, parameter.name, size, is_computed=is_computed)
        return min(total, size)

    def _read_by_users(
        self, body: tuple[Instruction, ...], name: str, size: int, *, is_computed: bool = False
    ) -> int:
        """Returns the bytes that users of `name` read of it, `size` at most.

        Slices that overlap count as often as they are read, up to `size`.

        Args:
          body: Instructions of the fusion.
          name: Instruction that is read.
          size: Bytes of its result.
          is_computed: Whether the fusion computes it. An update in place then makes it compute all
            of it, where an array in memory would stay as it is.
        """
        total = 0
        for user in body:
            if user.name == name and user.is_root:
                return size  # whoever uses the result
            if name not in user.operands:
                continue
            is_source = user.operands[0] == name
            if user.opcode == "bitcast":
                total += self._read_by_users(body, user.name, size, is_computed=is_computed)
            elif user.opcode in _SLICES and is_source:
                total += _bytes(user.arrays)
            elif user.opcode in _ELEMENTWISE:
                of_result = _bytes(user.arrays)  # of another dtype than the operand, maybe
                read = self._read_by_users(body, user.name, of_result, is_computed=True)
                total += read * size // of_result
            elif user.opcode == "fusion":
                total += self._read_inside(user, name, size, is_computed=is_computed)
            elif user.opcode != _IN_PLACE or not is_source or is_computed:
                return size
            if total >= size:
                return size
        return total

    def _written(self, instruction: Instruction) -> int:
        arrays = instruction.arrays
        if instruction.opcode == "copy-start":  # (destination, source, context)
            return self._size(arrays[:1])
        if instruction.opcode == "slice-start":
            return self._size(arrays[1:2])
        if instruction.opcode.endswith("-start"):  # ((operands), results, context)
            return self._size(arrays[len(instruction.operands) :] or arrays)
        if instruction.target.startswith(KERNEL_LIBRARIES):  # their bytes are scratch memory
            return self._size(array for array in arrays if array.dtype not in ("u8", "s8"))
        if instruction.opcode == "fusion":
            return self._written_by_fusion(instruction)
        return self._size(arrays)

    def _written_by_fusion(self, fusion: Instruction) -> int:
        body = {step.name: step for step in self.module.computations[fusion.called[0]]}
        (root,) = (step for step in body.values() if step.is_root)
        results = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(fusion.arrays):
            return self._size(fusion.arrays)
        total = 0
        for result, array in zip(results, fusion.arrays, strict=True):
            while result.opcode == "bitcast":
                result = body[result.operands[0]]
            if result.opcode == _IN_PLACE:
                array = dataclasses.replace(array, bytes=_bytes(body[result.operands[1]].arrays))
            total += self._size((array,))
        return total


def _bytes(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays)
