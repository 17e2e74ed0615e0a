"""Optimised HLO text as data: computations, instructions, and the arrays that they produce.

The text is what `jax.stages.Compiled.as_text` returns for any compiler of XLA's family. It has one
line for each instruction, `%name = type opcode(%operand, ...), attribute=value, ...`, in
computations of which one is the entry. Layouts are read for what they say about memory: `T(8,128)`
are tiles that an array is padded to, `S(1)` is a memory space other than the main memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

#: Bytes of an element; types that are no data (`token[]`) are missing.
ITEM_BYTES = {
    **dict.fromkeys(("pred", "s2", "u2", "s4", "u4", "s8", "u8"), 1),
    **dict.fromkeys(("f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}

_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%[\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type.

    Attributes:
      dtype: Dtype as HLO names it, such as "f32".
      dims: Sizes of the axes.
      bytes: Number of bytes in memory, padding to tiles included.
      space: Number of the memory space. 0 is the main memory; the compilers give other numbers
        their own meaning.
    """

    dtype: str
    dims: tuple[int, ...]
    bytes: int
    space: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
      name: Name, which is unique in its computation.
      opcode: Opcode, such as "fusion".
      arrays: Arrays of the result, with tuples flattened.
      operands: Names of instructions of the same computation; for a parameter, its number.
      attributes: Text that follows the operands.
      is_root: Whether it is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """Path of scopes in the traced program that it comes from; "" where that is lost."""
        return self.attribute(r'op_name="((?:[^"\\]|\\.)*)"')

    @property
    def target(self) -> str:
        """Name of what a custom call calls; "" for any other instruction."""
        return self.attribute(r'custom_call_target="([^"]*)"')

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls, such as the body of a fusion."""
        head = self.attributes.partition("backend_config=")[0]  # behind it: a kernel's own code
        return tuple(name for found in _CALLED.findall(head) for name in _OPERAND.findall(found))

    def attribute(self, pattern: str) -> str:
        """Returns the first group of the first match among the attributes, or ""."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: Instructions of each computation in order, by the name of the computation.
      entry: Name of the computation that runs.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def inner(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """Returns the instructions of a fusion and of the fusions inside it; () for all others."""
        if instruction.opcode not in ("fusion", "async-start"):
            return ()
        found: list[Instruction] = []
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                found += [inner, *self.inner(inner)]
        return tuple(found)


def parse_module(text: str) -> Module:
    """Reads the text of a module.

    >>> module = parse_module('''
    ... ENTRY %main (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} negate(%x), metadata={op_name="jit(f)/neg"}
    ... }''')
    >>> [(i.opcode, i.operands, i.op_name) for i in module.computations[module.entry]]
    [('parameter', ('0',), ''), ('negate', ('x',), 'jit(f)/neg')]

    Raises:
      ValueError: The text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is not None:
            if found := _INSTRUCTION.match(line):
                current.append(_instruction(found[2], found[3], is_root=bool(found[1])))
        elif not line.startswith("HloModule") and (found := _COMPUTATION.match(line)):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
    if not entry:
        raise ValueError("This is no HLO module: it has no line that begins with ENTRY.")
    return Module({name: tuple(lines) for name, lines in computations.items()}, entry)


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Reads the arrays of a type, with tuples flattened.

    >>> parse_arrays("(f32[8]{0}, bf16[3,100]{1,0:T(8,128)(2,1)S(1)})")
    (Array(dtype='f32', dims=(8,), bytes=32, space=0), \
Array(dtype='bf16', dims=(3, 100), bytes=2048, space=1)\
)
    """
    return tuple(
        _array(dtype, tuple(int(size) for size in dims.split(",") if size), layout or "")
        for dtype, dims, layout in _ARRAY.findall(text)
        if dtype in ITEM_BYTES
    )


def _array(dtype: str, dims: tuple[int, ...], layout: str) -> Array:
    order, _, memory = layout.partition(":")
    padded = list(dims)
    if tiles := re.match(r"T\(([\d,]+)\)", memory):
        # The last number of a tile belongs to the dimension whose elements are neighbours.
        minor_to_major = [int(dim) for dim in order.split(",") if dim]
        sizes = reversed([int(size) for size in tiles[1].split(",")])
        for dim, size in zip(minor_to_major, sizes, strict=False):
            padded[dim] = -(-padded[dim] // size) * size
    space = re.search(r"S\((\d+)\)", memory)
    num_bytes = math.prod(padded) * ITEM_BYTES[dtype]
    return Array(dtype, dims, num_bytes, int(space[1]) if space else 0)


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    text = re.sub(r"/\*index=\d+\*/", "", text)
    type_end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[type_end:].lstrip().partition("(")
    end = _closing("(" + rest, 0) - 1
    arguments = rest[:end]
    operands = (arguments,) if opcode == "parameter" else tuple(_OPERAND.findall(arguments))
    return Instruction(
        name, opcode, parse_arrays(text[:type_end]), operands, rest[end + 1 :], is_root
    )


def _closing(text: str, start: int) -> int:
    """Returns the place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"Unbalanced brackets in the HLO line {text[:80]!r}.")
