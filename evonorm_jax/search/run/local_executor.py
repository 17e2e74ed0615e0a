"""Processes of this machine that evaluate candidates.

Each worker is a fresh interpreter (spawned, because JAX does not survive a fork) that builds its
evaluator once and keeps it. A pipe joins it to the driver. What a worker has sent before it dies is
still read. When the driver dies, the workers end at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from evonorm_jax.placement import Place
from evonorm_jax.search.run.executor import Executor, WorkerHandle
from evonorm_jax.search.run.worker import Evaluate, Message, Trial, attempt, build

_SPAWN = multiprocessing.get_context("spawn")
_LOG_TAIL = 2000  # bytes of a dead worker's log that its message quotes


class LocalExecutor(Executor):
    """One worker process at each place.

    Args:
      make_evaluate: Builds the evaluator in the worker; it is sent there by pickle.
      places: Where the workers run, one each.
      log_folder: The folder of the files `worker_<i>.log` that workers print to; None lets them
        print where this process does.
    """

    def __init__(
        self,
        make_evaluate: Callable[[], Evaluate],
        places: Sequence[Place],
        log_folder: Path | None = None,
    ) -> None:
        super().__init__(len(places))
        self._make_evaluate = make_evaluate
        self._places = list(places)
        self._log_folder = log_folder

    def close(self) -> None:
        """Kills the processes."""
        for worker in self.workers:
            worker.process.kill()  # there is nothing to save: an evaluation is a pure function
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers = []

    def _create(self, index: int) -> _ProcessWorker:
        log = None
        if self._log_folder is not None:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            log = self._log_folder / f"worker_{index}.log"
        return _ProcessWorker(self._make_evaluate, self._places[index], log)

    def _start(self, worker: _ProcessWorker, trial: Trial) -> None:
        with contextlib.suppress(OSError):  # it has just died, which `_collect` is about to see
            worker.connection.send(trial)

    def _collect(self, timeout: float) -> None:
        waiting = {worker.connection: worker for worker in self.workers}
        waiting |= {worker.process.sentinel: worker for worker in self.workers}
        ready = multiprocessing.connection.wait(list(waiting), timeout)
        for worker in dict.fromkeys(waiting[item] for item in ready):  # each of them once
            # Asked before its messages are read, so that none can come after them.
            dead = not worker.process.is_alive()
            while (message := worker.receive()) is not None:
                self._take(worker, message)
            if dead:
                self._replace(worker, worker.describe_death())
                worker.connection.close()


class _ProcessWorker(WorkerHandle):
    """A process, as the driver sees it."""

    def __init__(
        self, make_evaluate: Callable[[], Evaluate], place: Place, log: Path | None
    ) -> None:
        super().__init__()
        self._place = place
        self._log = log
        self._log_start = log.stat().st_size if log and log.exists() else 0
        self.connection, theirs = _SPAWN.Pipe()
        arguments = (make_evaluate, place, theirs, log)
        self.process = _SPAWN.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that its end of the pipe ends with it

    def receive(self) -> Message | None:
        """Returns the next message; None if there is none, or a death cut the last one short."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def describe_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = f"process {self.process.pid} on {self._place.name} ended with {how}"
        if self._log is not None and self._log.exists():
            with self._log.open("rb") as log:
                log.seek(max(self._log_start, self._log.stat().st_size - _LOG_TAIL))
                tail = log.read().decode(errors="replace").strip()
            text += f"; it had printed:\n{tail}" if tail else ""
        return text


def _work(
    make_evaluate: Callable[[], Evaluate], place: Place, connection: Connection, log: Path | None
) -> None:
    """Runs a worker until the driver closes the pipe, kills it, or dies."""
    # Ctrl-C reaches all processes of a terminal, but the driver decides when the workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if log is not None:
        _print_to(log)
    place.enter()
    evaluate, message = build(make_evaluate)
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        connection.send(message)
        # After an exception the worker ends, and the driver starts a fresh process.
        while evaluate is not None and message[0] != "failed":
            message = attempt(evaluate, connection.recv())
            connection.send(message)


def _end_with_driver() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _print_to(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
