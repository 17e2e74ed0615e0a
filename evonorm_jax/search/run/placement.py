"""Where the workers of this machine run: one on each GPU, or one on each CPU core."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from evonorm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
      name: A name for people, such as "GPU 3".
      environment: The variables that the worker sets before JAX starts.
      cores: The CPU cores that it keeps to; empty for no such limit.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()

    def enter(self) -> None:
        """Puts this process there; JAX must not have touched a device yet."""
        os.environ.update(self.environment)
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)  # XLA has as many threads as it sees cores


def find_places(num_workers: int | None = None, *, has_tpu: bool = False) -> list[Place]:
    """Finds the places for the workers of this machine.

    Args:
      num_workers: By default one for each GPU, or for each core where there is none. More workers
        than GPUs share them and their memory evenly; fewer workers than cores share the cores.
      has_tpu: Whether the host has TPU chips, which one process takes together.

    Raises:
      UserError: For fewer than one worker.
    """
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--workers={num_workers}: at least one worker must evaluate.")
    from evonorm_jax.sweeps.slots import visible_gpus  # here: workers read this file, too

    if gpus := visible_gpus():
        num_workers = num_workers or len(gpus)
        sharing = -(-num_workers // len(gpus))
        memory = {} if sharing == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.3f}"}
        return [
            Place(f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu} | memory)
            for gpu in (gpus[i % len(gpus)] for i in range(num_workers))
        ]
    if has_tpu:
        if num_workers not in (None, 1):
            raise UserError(f"--workers={num_workers}: one process takes all TPU chips of a host.")
        return [Place("TPU")]
    cores = _cores()
    num_workers = num_workers or len(cores)
    return [_cpu_place(i, num_workers, cores) for i in range(num_workers)]


def _cpu_place(index: int, num_workers: int, cores: list[int]) -> Place:
    # One thread on one core each: two such processes do up to 1.4 times the steps of one process
    # with two threads, because small convolutions do not fill two.
    if num_workers >= len(cores):
        own = cores[index % len(cores) :][:1]
    else:
        own = cores[index * len(cores) // num_workers : (index + 1) * len(cores) // num_workers]
    return Place(f"CPU {','.join(map(str, own))}", cores=frozenset(own))


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
