"""Settings of glibc for runs on a CPU; imports nothing heavy, because it starts Python anew."""

from __future__ import annotations

import os
from pathlib import Path

from experiments.startup import start_anew

# By default glibc takes tensors of 32 MiB and more from the kernel and gives them back at once, so
# every operation pays the page faults of its whole result. Three elementwise results of 51 MB each
# took 147 ms a call that way and 22 ms with freed memory kept (jax 0.12.0, two EPYC cores), with
# 37,600 and 5,400 page faults a call; a layer's forward and backward pass takes about half.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),  # bytes: smaller requests come from the heap
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),  # bytes of free heap that are kept
    "MALLOC_TOP_PAD_": str(256 * 2**20),  # bytes by which the heap grows at least
}


def tune_allocator() -> None:
    """Starts this process anew with `SETTINGS`, where they apply and none of them is set.

    They are read when a process starts. Call it first in a launcher, before JAX is imported:
    what had been done until then is done twice.
    """
    if wants_tuning(os.environ):
        start_anew({**os.environ, **SETTINGS})


def wants_tuning(environment: os._Environ[str] | dict[str, str]) -> bool:
    """True on glibc with JAX on the CPU, unless the user set one of these variables."""
    return (
        "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
        and not any(name in environment for name in SETTINGS)
        and computes_on_cpu(environment)
    )


def computes_on_cpu(environment: os._Environ[str] | dict[str, str]) -> bool:
    """Whether JAX will compute on the CPU, told without starting it."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms.split(",")[0] == "cpu"
    accelerators = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")
    return not any(next(Path("/dev").glob(pattern), None) for pattern in accelerators)
