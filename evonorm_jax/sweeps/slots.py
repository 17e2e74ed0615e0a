"""Where runs go on this machine: one to a GPU, or several beside each other on CPU cores."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Mapping

from evonorm_jax.errors import UserError

# A run takes about 1.4 cores: XLA spreads large operations over all of them, Python needs one.
_CORES_PER_RUN = 2
# A run is a process of its own, even where its sweep was started as one of several tasks.
_CLUSTER_VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "OMPI_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Attributes:
      name: for people, such as "GPU 3".
      environment: what a run gets there on top of the environment of the sweep.
    """

    name: str
    environment: Mapping[str, str]


def find_slots(jobs: int | None = None, *, has_tpu: bool = False) -> list[Slot]:
    """The places for runs on this machine.

    Args:
      jobs: how many runs at a time; by default one to a GPU, one to all the TPU chips of a host, or
        one to two CPU cores. More runs than GPUs share them, and their memory, evenly.
      has_tpu: the host has TPU chips, which one process takes together.

    Raises:
      UserError: for fewer than one run at a time.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs={jobs}: at least one run must go on at a time.")
    if gpus := visible_gpus():
        jobs = len(gpus) if jobs is None else jobs
        sharing = -(-jobs // len(gpus))
        memory = {} if sharing == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.3f}"}
        shared = [gpus[i % len(gpus)] for i in range(jobs)]
        return [Slot(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu} | memory) for gpu in shared]
    if jobs is None:
        jobs = 1 if has_tpu else max(1, _num_cores() // _CORES_PER_RUN)
    return [Slot("TPU" if has_tpu else "CPU", {}) for _ in range(jobs)]


def visible_gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name: the GPUs that JAX would use, without touching them."""
    if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def run_environment(slot: Slot) -> dict[str, str]:
    """The environment of a run in that slot."""
    kept = {name: value for name, value in os.environ.items() if name not in _CLUSTER_VARIABLES}
    # JAX caches what took longer than 1 s to compile; the runs of a sweep compile the same small
    # programs over and over.
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return cache | kept | dict(slot.environment)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
