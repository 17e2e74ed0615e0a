"""What a measurement was made on and with; a number without it cannot be repeated."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

import jax

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import command, git_commit, now, num_cores, processor, versions

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
)
#: Variables that change times; `experiments/allocator.py` sets those of the allocator.
VARIABLES = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
)


def environment(hardware: str, *, quick: bool) -> dict[str, Any]:
    """Hardware, command, commit, versions, settings and date of a measurement that starts now."""
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
        "quick": quick,
        "versions": versions(PACKAGES),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "load_average_before": load_average(),
    }


def hardware_name() -> str:
    """A folder name for this machine: that of its accelerator, or processor and cores."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return slug(f"{processor()} {num_cores()} cores")
    count = jax.device_count()
    return slug(device.device_kind if count == 1 else f"{count}x {device.device_kind}")


def check_name(hardware: str) -> str:
    """The name as it is, where it can name a folder.

    Raises:
      UserError: where it cannot.
    """
    if not hardware or slug(hardware) != hardware:
        raise UserError(
            f"--hardware={hardware!r} must be lower-case letters, digits and single hyphens, such "
            f"as {slug(hardware) or 'nvidia-h200'!r}."
        )
    return hardware


def slug(text: str) -> str:
    """Lower-case words joined by hyphens.

    >>> slug("Intel(R) Xeon(R) CPU @ 2.80GHz 2 cores")
    'intel-xeon-cpu-2-80ghz-2-cores'
    """
    text = re.sub(r"\((r|tm)\)", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def load_average() -> list[float] | None:
    """Over 1, 5 and 15 minutes; more than this process explains means a machine that is shared."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None
