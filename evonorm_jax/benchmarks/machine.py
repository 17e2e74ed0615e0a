"""What a measurement was made on and with, without which no number can be repeated."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from typing import Any

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import (
    code_digest,
    command,
    git_commit,
    now,
    num_cores,
    processor,
    versions,
)

#: Their versions are recorded where they are installed; none is imported for it.
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "timm",
    "jax-cuda13-plugin",
    "libtpu",
)
#: Variables that change times; `experiments/allocator.py` sets those of the allocator.
VARIABLES = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
)


def environment(hardware: str, *, quick: bool) -> dict[str, Any]:
    """Describes the conditions of a measurement that starts now.

    They are hardware, command, commit, versions, settings and date.
    """
    devices = jax.devices()
    return {
        "hardware": hardware,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processor": processor(),
        "cores": num_cores(),
        "platform": platform.platform(),
        "date": now(),
        "command": command(),
        "commit": git_commit(),
        "code": code_digest(),
        "quick": quick,
        "versions": versions(PACKAGES),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "load_average_before": load_average(),
    }


@contextlib.contextmanager
def no_preallocation() -> Iterator[None]:
    """Keeps JAX from setting memory aside on devices that it finds inside (75 % of a GPU)."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def hardware_name() -> str:
    """Returns a folder name for this machine: that of its accelerator, or processor and cores."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return slug(f"{processor()} {num_cores()} cores")
    count = jax.device_count()
    return slug(device.device_kind if count == 1 else f"{count}x {device.device_kind}")


def check_name(hardware: str) -> str:
    """Returns the name as it is, where it can name a folder.

    Raises:
      UserError: The name is empty, or not lower-case letters, digits and single hyphens.
    """
    if not hardware or slug(hardware) != hardware:
        raise UserError(
            f"--hardware={hardware!r} must be lower-case letters, digits and single hyphens, such "
            f"as {slug(hardware) or 'nvidia-h200'!r}."
        )
    return hardware


def slug(text: str) -> str:
    """Converts a text to lower-case words joined by hyphens.

    >>> slug("Intel(R) Xeon(R) CPU @ 2.80GHz 2 cores")
    'intel-xeon-cpu-2-80ghz-2-cores'
    """
    text = re.sub(r"\((r|tm)\)", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def load_average() -> list[float] | None:
    """Returns the load average over 1, 5 and 15 minutes, or None where the system gives none.

    A load above that of this process means that the machine is shared.
    """
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None
