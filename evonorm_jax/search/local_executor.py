"""Processes of this machine that evaluate candidates.

Each worker is a fresh interpreter (spawned, because JAX does not survive a fork) that builds its
evaluator once and keeps it. A pipe joins it to the driver. What a worker has sent before it dies is
read to the end; when the driver dies, the workers end at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.search.executors import MAX_ATTEMPTS, Evaluate, Executor, Task
from evonorm_jax.search.placement import Place

_SPAWN = multiprocessing.get_context("spawn")
_LOG_TAIL = 2000  # bytes of a dead worker's log that its message quotes


class LocalExecutor(Executor):
    """One worker process at each place.

    Args:
      make_evaluate: builds the evaluator, in the worker; sent there by pickle.
      places: of the workers.
      log_folder: where workers print to, `worker_<i>.log`; None: where this process does.
    """

    def __init__(
        self,
        make_evaluate: Callable[[], Evaluate],
        places: Sequence[Place],
        log_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.num_workers = len(places)
        self._deaths_at_start = 0  # in succession, of workers that were never ready
        logs = [log_folder and log_folder / f"worker_{i}.log" for i in range(len(places))]
        if log_folder is not None:
            log_folder.mkdir(parents=True, exist_ok=True)
        self._make = [
            lambda place=place, log=log: _Worker(make_evaluate, place, log)
            for place, log in zip(places, logs, strict=True)
        ]
        self._workers = [make() for make in self._make]

    @property
    def process_ids(self) -> list[int]:
        """Of the workers, in the order of their places."""
        return [worker.process.pid or 0 for worker in self._workers]

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # there is nothing to save: an evaluation is a pure function
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _num_running(self) -> int:
        return sum(worker.task is not None for worker in self._workers)

    def _start_tasks(self) -> None:
        for worker in self._workers:
            if self._queue and worker.task is None and not worker.ending:
                worker.start(self._queue.popleft())

    def _collect(self, timeout: float) -> None:
        waiting = {worker.connection: worker for worker in self._workers}
        waiting |= {worker.process.sentinel: worker for worker in self._workers}
        ready = multiprocessing.connection.wait(list(waiting), timeout)
        for worker in dict.fromkeys(waiting[item] for item in ready):  # each of them once
            # Before its messages are read, so that none can come after them.
            dead = not worker.process.is_alive()
            while (message := worker.receive()) is not None:
                self._take(worker, *message)
            if dead:
                self._replace(worker)

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        if kind == "ready":
            worker.ready = True
            self._deaths_at_start = 0
        elif kind == "unusable":
            raise UserError(content)
        elif kind == "broken":
            raise RuntimeError(f"A worker cannot build its evaluator:\n{content}")
        elif worker.task is not None:
            task, worker.task = worker.task, None
            if kind == "done":
                self._end(task, content)
            else:
                worker.ending = True
                self._failed(task, content)

    def _replace(self, worker: _Worker) -> None:
        self.deaths += 1
        how = worker.describe_death()
        if worker.ready:
            if worker.task is not None:
                self._failed(worker.task, how)
        else:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MAX_ATTEMPTS * self.num_workers:
                raise UserError(
                    f"The workers die before they are ready, {self._deaths_at_start} in "
                    f"succession; the last: {how}"
                )
            if worker.task is not None:  # it had not seen it yet
                self._queue.appendleft(worker.task)
        worker.connection.close()
        index = self._workers.index(worker)
        self._workers[index] = self._make[index]()


class _Worker:
    """A process and what it is doing, as the driver sees it."""

    def __init__(
        self, make_evaluate: Callable[[], Evaluate], place: Place, log: Path | None
    ) -> None:
        self.place = place
        self.task: Task | None = None
        self.ready = False
        self.ending = False  # by itself, after an exception
        self._log = log
        self._log_start = log.stat().st_size if log and log.exists() else 0
        self.connection, theirs = _SPAWN.Pipe()
        arguments = (make_evaluate, place, theirs, log)
        self.process = _SPAWN.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that its end of the pipe ends with it

    def start(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # it has just died, which `_collect` is about to see
            self.connection.send(task)

    def receive(self) -> tuple[str, Any] | None:
        """The next message; None if there is none, or the last was cut short by a death."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def describe_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = f"process {self.process.pid} on {self.place.name} ended with {how}"
        if self._log is not None and self._log.exists():
            with self._log.open("rb") as log:
                log.seek(max(self._log_start, self._log.stat().st_size - _LOG_TAIL))
                tail = log.read().decode(errors="replace").strip()
            text += f"; it had printed:\n{tail}" if tail else ""
        return text


def _work(
    make_evaluate: Callable[[], Evaluate], place: Place, connection: Connection, log: Path | None
) -> None:
    """The worker's life: until the driver closes the pipe, kills it, or dies."""
    # Ctrl-C reaches all processes of a terminal; what becomes of the workers is the driver's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if log is not None:
        _print_to(log)
    place.enter()
    try:
        evaluate = make_evaluate()
    except UserError as error:
        connection.send(("unusable", str(error)))
        return
    except Exception:
        connection.send(("broken", traceback.format_exc()))
        return
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            message = ("done", evaluate(task.graph, task.seed))
        except Exception:
            connection.send(("failed", traceback.format_exc(limit=-8)))
            return
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
