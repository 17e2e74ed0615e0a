"""Where processes run on this machine: on one GPU each, or beside each other on CPU cores.

A sweep places whole training runs, a layer search places workers that evaluate small networks.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import cores, num_cores

_DEVICE = re.compile(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+")  # a number, or the start of a UUID
#: A run takes about 1.4 cores: XLA spreads large operations over all of them, Python needs one.
CORES_PER_RUN = 2
# A run is a process of its own, even where its sweep was started as one of several tasks.
_CLUSTER_VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "OMPI_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Room for one process at a time.

    Attributes:
      name: Name for people, such as "GPU 3".
      environment: Variables that a process has there on top of those of its parent.
      cores: CPU cores that a worker keeps to; empty for no such limit.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()

    def enter(self) -> None:
        """Puts this process there; JAX must not have touched a device yet."""
        os.environ.update(self.environment)
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)  # XLA has as many threads as it sees cores


def places_for_runs(jobs: int | None = None, *, has_tpu: bool = False) -> list[Place]:
    """Finds the places for training runs.

    Args:
      jobs: Runs at a time. By default one on each GPU, one on all the TPU chips of a host, or one
        on two CPU cores. More runs than GPUs share them, and their memory, evenly.
      has_tpu: Whether the host has TPU chips, which one process takes together.

    Raises:
      UserError: `jobs` is below 1.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs={jobs}: at least one run must go on at a time.")
    if gpus := visible_gpus():
        return _gpu_places(gpus, jobs)
    if jobs is None:
        jobs = 1 if has_tpu else max(1, num_cores() // CORES_PER_RUN)
    return [Place("TPU" if has_tpu else "CPU")] * jobs


def places_for_workers(num_workers: int | None = None, *, has_tpu: bool = False) -> list[Place]:
    """Finds the places for the workers of a search.

    Args:
      num_workers: Workers at a time. By default one on each GPU, or on each core where there is no
        GPU. More workers than GPUs share them, and their memory, evenly; fewer workers than cores
        share the cores.
      has_tpu: Whether the host has TPU chips, which one process takes together.

    Raises:
      UserError: `num_workers` is below 1, or above 1 on a host with TPU chips.
    """
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--workers={num_workers}: at least one worker must evaluate.")
    if gpus := visible_gpus():
        return _gpu_places(gpus, num_workers)
    if has_tpu:
        if num_workers not in (None, 1):
            raise UserError(f"--workers={num_workers}: one process takes all TPU chips of a host.")
        return [Place("TPU")]
    own_cores = cores()
    num_workers = num_workers or len(own_cores)
    return [_cpu_place(i, num_workers, own_cores) for i in range(num_workers)]


def visible_gpus() -> list[str]:
    """Returns what `CUDA_VISIBLE_DEVICES` may name: the GPUs that JAX would use.

    None of them is touched.
    """
    # JAX takes an empty variable for none.
    if (os.environ.get("JAX_PLATFORMS") or "cuda").split(",")[0] not in ("cuda", "gpu"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = (name.strip() for name in visible.split(","))
        # CUDA sees no device behind the first that is none, such as -1 or Slurm's NoDevFiles.
        return list(itertools.takewhile(_DEVICE.fullmatch, names))
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def run_environment(place: Place) -> dict[str, str]:
    """Returns the whole environment of a training run at that place."""
    kept = {name: value for name, value in os.environ.items() if name not in _CLUSTER_VARIABLES}
    # JAX caches what took longer than 1 s to compile; the runs of a sweep compile the same small
    # programs over and over.
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return cache | kept | dict(place.environment)


def memory_of_share(share: float) -> dict[str, str]:
    """Returns the variables of a process that has a part of a GPU, and of its memory.

    >>> memory_of_share(1.0), memory_of_share(0.5)
    ({}, {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.450'})
    """
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * share:.3f}"} if share < 1 else {}


def _gpu_places(gpus: list[str], number: int | None) -> list[Place]:
    number = len(gpus) if number is None else number
    memory = memory_of_share(1 / -(-number // len(gpus)))
    shared = [gpus[i % len(gpus)] for i in range(number)]
    return [Place(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu} | memory) for gpu in shared]


def _cpu_place(index: int, num_workers: int, own_cores: list[int]) -> Place:
    # One thread on one core each: two such processes do up to 1.4 times the steps of one process
    # with two threads, because small convolutions do not fill two.
    if num_workers >= len(own_cores):
        mine = own_cores[index % len(own_cores) :][:1]
    else:
        first, end = (i * len(own_cores) // num_workers for i in (index, index + 1))
        mine = own_cores[first:end]
    return Place(f"CPU {','.join(map(str, mine))}", cores=frozenset(mine))
