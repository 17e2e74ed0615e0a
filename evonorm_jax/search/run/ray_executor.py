"""Ray actors that evaluate candidates, on whatever machines a cluster has.

The driver, with its ledger, is an ordinary process that joins the cluster; an actor holds one GPU,
or one CPU core where the cluster has no GPU. Actors and nodes may die at any time.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import evonorm_jax
from evonorm_jax.errors import UserError
from evonorm_jax.search.run.executor import Executor, WorkerHandle
from evonorm_jax.search.run.worker import Evaluate, Message, Trial, attempt, build

_MISSING = (
    "--ray needs Ray, which is not installed: pip install ray (the same version as the cluster's), "
    "or leave --ray out to search on this machine alone."
)
_CONNECT_SECONDS = 10.0


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
        ray = _connect(address)
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


def _connect(address: str) -> ModuleType:
    """Returns the module `ray`, connected to the cluster."""
    if address == "local":  # before the import, which reads it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(_MISSING) from error
    package = Path(evonorm_jax.__file__).parent
    # A cluster of this machine alone is nobody else's. Ray listens on the loopback device; earlier
    # versions listen on all, but to nobody who lacks the token that Ray makes itself.
    local = {"_node_ip_address": "127.0.0.1"} if address == "local" else {}
    try:
        _check_reachable(address)
        with _own_signals():
            ray.init(
                address=address,
                **local,
                # The nodes run the code that this process runs; the packages it needs are theirs.
                runtime_env={"py_modules": [str(package)]},
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray={address}: there is no Ray cluster, or it does not take this driver ({error}). "
            "Start one with 'ray start --head', or take 'local' for this machine alone; on a node "
            "of a cluster that asks for a token take 'auto', elsewhere set RAY_AUTH_MODE=token."
        ) from error
    return ray


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the handlers of signals that were there before a `with` block.

    Ray sets its own for SIGTERM, under which a search would end without a word.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing answers at HOST:PORT; Ray itself goes on trying for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
