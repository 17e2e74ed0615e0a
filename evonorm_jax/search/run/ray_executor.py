"""Ray actors that evaluate candidates, on whatever machines a cluster has.

The driver, with its ledger, is an ordinary process that joins the cluster; an actor holds one GPU,
or one CPU core where the cluster has no GPU. Actors and nodes may die at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.ray_cluster import connect
from evonorm_jax.search.run.executor import Executor, WorkerHandle
from evonorm_jax.search.run.worker import Evaluate, Message, Trial, attempt, build


class RayExecutor(Executor):
    """One actor for each GPU of a Ray cluster, or each core.

    Args:
      make_evaluate: Builds the evaluator in the actor.
      address: The address of the cluster: "auto" on one of its nodes, "ray://HOST:10001" from
        elsewhere, or "local" for a cluster of this machine alone that ends with the search.
      num_workers: The number of actors; None for as many as the cluster has GPUs, or cores.

    Raises:
      UserError: Ray is not installed, no cluster is at the address, or it has too little room.
    """

    def __init__(
        self,
        make_evaluate: Callable[[], Evaluate],
        address: str,
        num_workers: int | None = None,
    ) -> None:
        ray = connect(address)
        resources = ray.cluster_resources()
        self._kind = "GPU" if resources.get("GPU", 0) >= 1 else "CPU"
        available = int(resources.get(self._kind, 0))
        super().__init__(available if num_workers is None else num_workers)
        if not 1 <= self.num_workers <= available:
            ray.shutdown()
            raise UserError(
                f"--workers={self.num_workers}: this Ray cluster has room for 1 to {available}, "
                f"one for each {self._kind}."
            )
        self._ray = ray
        self._make_evaluate = make_evaluate

    def close(self) -> None:
        """Kills the actors and leaves the cluster."""
        for worker in self.workers:
            self._ray.kill(worker.handle)
        self.workers = []
        self._ray.shutdown()

    def _create(self, index: int) -> _ActorWorker:
        # XLA starts a thread for each core that it sees, and an actor is to have one core.
        environment = {} if self._kind == "GPU" else {"NPROC": "1"}
        actor = self._ray.remote(
            max_restarts=0,  # the driver replaces them: what they were doing goes elsewhere
            max_task_retries=0,
            num_cpus=1,
            num_gpus=1 if self._kind == "GPU" else 0,
            runtime_env={"env_vars": environment},
        )(_Evaluator)
        return _ActorWorker(actor.remote(self._make_evaluate))

    def _start(self, worker: _ActorWorker, trial: Trial) -> None:
        worker.reference = worker.handle.run.remote(trial)

    def _collect(self, timeout: float) -> None:
        waiting = {w.reference: w for w in self.workers if w.reference is not None}
        if not waiting:
            return
        ready, _ = self._ray.wait(list(waiting), timeout=timeout)
        if ready:  # perhaps not alone
            ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for reference in ready:
            worker = waiting[reference]
            worker.reference = None
            try:
                message = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._replace(worker, f"{type(error).__name__}: {error}")
                continue
            self._take(worker, message)
            if worker.ending:
                self._ray.kill(worker.handle)
                self._replace(worker, "ended after an exception")


class _ActorWorker(WorkerHandle):
    """An actor, as the driver sees it; it may wait long for a node that has room for it."""

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self.handle = handle
        self.reference: Any = handle.build.remote()  # what it owes

    @property
    def is_free(self) -> bool:
        # A trial would wait with an actor that waits for a node.
        return self.ready and super().is_free


class _Evaluator:
    """The class of the actors."""

    def __init__(self, make_evaluate: Callable[[], Evaluate]) -> None:
        self._make_evaluate = make_evaluate
        self._evaluate: Evaluate | None = None

    def build(self) -> Message:
        self._evaluate, message = build(self._make_evaluate)
        return message

    def run(self, trial: Trial) -> Message:
        assert self._evaluate is not None
        return attempt(self._evaluate, trial)
