"""Registers and spills of hand-written GPU kernels, as NVIDIA's assembler reports them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Makes Mosaic print the assembler's report for every kernel that it compiles.
_VARIABLE = "MOSAIC_GPU_DUMP_PTXAS"
_KERNEL = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclasses.dataclass(frozen=True)
class Resources:
    """The resources that one kernel takes.

    Attributes:
      kernel: Name of the kernel.
      registers: Number of registers of a thread, 255 at most.
      spilled: Bytes that a thread stores to memory and loads again for want of registers.
    """

    kernel: str
    registers: int
    spilled: int


def parse_report(text: str) -> list[Resources]:
    """Reads the assembler's report, and leaves out whatever else is printed between its lines.

    >>> parse_report('''ptxas info    : Compiling entry function 'f' for 'sm_90a'
    ...     0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
    ... ptxas info    : Used 87 registers, used 16 barriers''')
    [Resources(kernel='f', registers=87, spilled=20)]
    """
    found = []
    for part in re.split(r"(?=Compiling entry function)", text):
        kernel, registers = _KERNEL.search(part), _REGISTERS.search(part)
        if kernel and registers:
            spills = _SPILLS.search(part)
            spilled = sum(map(int, spills.groups())) if spills else 0
            found.append(Resources(kernel[1], int(registers[1]), spilled))
    return found


@contextlib.contextmanager
def record_resources() -> Iterator[list[Resources]]:
    """Yields a list, and fills it at the end with the resources of the kernels compiled inside.

    The compiler itself prints the report, past `sys.stdout`, so meanwhile the output of the whole
    process goes to a temporary file. Whatever else is written there is printed at the end.
    """
    found: list[Resources] = []
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="evonorm_jax_") as folder:
        path = Path(folder) / "stdout"
        saved = os.dup(1)
        try:
            with path.open("wb") as file:
                os.dup2(file.fileno(), 1)
            yield found
        finally:
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
            text = path.read_text(errors="replace")
            found += parse_report(text)
    rest = [line for line in text.splitlines() if not _is_reported(line)]
    if rest:
        print("\n".join(rest))


def _is_reported(line: str) -> bool:
    return line.startswith("ptxas ") or "bytes stack frame" in line or not line.strip()
