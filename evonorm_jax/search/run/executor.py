"""Evaluation in workers, whatever they are: processes of this machine or actors on a cluster.

An executor takes trials and gives outcomes in whatever order they end. If a worker dies, its trial
goes to another one. A trial on which several workers have failed is given up, once a later one has
shown that the fault is not the machine's. `local_executor.py` has processes of this machine,
`ray_executor.py` actors on a cluster.
"""

from __future__ import annotations

import abc
import dataclasses
from collections import Counter, deque
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.verdicts import EVALUATION_FAILED, Verdict
from evonorm_jax.search.run.worker import Message, Trial

#: How many workers may fail on a trial, by dying or by an exception. Each time another, fresh
#: process tries, because one kill may be an accident and a GPU may be left in an error that stays.
MAX_ATTEMPTS = 3

#: How many trials may be given up in succession before the machine is held to be at fault.
MAX_FAILURES = 5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trial that has ended.

    Attributes:
      trial: The trial.
      verdict: What came of it.
    """

    trial: Trial
    verdict: Verdict


class WorkerHandle:
    """What an executor knows of one of its workers.

    Attributes:
      trial: The trial that it has; None if it is idle.
      ready: Whether its evaluator is built.
      ending: Whether it may get no other trial, after an exception in the last one.
    """

    def __init__(self) -> None:
        self.trial: Trial | None = None
        self.ready = False
        self.ending = False

    @property
    def is_free(self) -> bool:
        """Whether it can have a trial."""
        return self.trial is None and not self.ending


class Executor(abc.ABC):
    """Workers that evaluate one trial each at a time.

    Attributes:
      num_workers: How many workers there are.
      workers: The workers; empty until the first trial.
      deaths: How many workers have ended so far, for whatever reason, and were replaced.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.workers: list[Any] = []
        self.deaths = 0
        self._queue: deque[Trial] = deque()
        self._attempts: Counter[Any] = Counter()
        self._given_up: list[Outcome] = []  # since the last success
        self._deaths_at_start = 0  # how many died before they were ready, in succession
        self._ended: list[Outcome] = []

    @property
    def num_unfinished(self) -> int:
        """The number of trials that were submitted and not yet handed out as outcomes."""
        return self._num_active + len(self._ended) + len(self._given_up)

    @property
    def has_room(self) -> bool:
        """Whether some worker has nothing to do.

        Trials wait with the search, not here: a proposal should know of as many results as it can.
        """
        return self._num_active + len(self._ended) < self.num_workers

    def submit(self, trial: Trial) -> None:
        """Takes a trial for the next worker that is free; the first one starts the workers."""
        self._queue.append(trial)
        if not self.workers:
            self.workers = [self._create(i) for i in range(self.num_workers)]
        self._start_trials()

    def wait(self, timeout: float) -> list[Outcome]:
        """Returns the trials that have ended since the last call.

        Args:
          timeout: How many seconds to wait for one at most.

        Raises:
          UserError: The workers cannot do their work, whatever the trial.
        """
        if not self._num_active:  # no success can come any more
            self._end_given_up()
        if not self._ended and self.workers:
            self._collect(timeout)
        self._start_trials()
        ended, self._ended = self._ended, []
        return ended

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the workers, and with them what they are doing."""

    @abc.abstractmethod
    def _create(self, index: int) -> Any:
        """Creates a worker for that place."""

    @abc.abstractmethod
    def _start(self, worker: Any, trial: Trial) -> None:
        """Gives a free worker a trial."""

    @abc.abstractmethod
    def _collect(self, timeout: float) -> None:
        """Waits for something to happen, and calls `_take` for messages, `_replace` for deaths."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _num_active(self) -> int:
        """The number of trials that wait for a worker or that one has."""
        return len(self._queue) + sum(worker.trial is not None for worker in self.workers)

    def _start_trials(self) -> None:
        for worker in self.workers:
            if self._queue and worker.is_free:
                worker.trial = self._queue.popleft()
                self._start(worker, worker.trial)

    def _take(self, worker: WorkerHandle, message: Message) -> None:
        """Acts on what a worker says."""
        kind, content = message
        if kind == "ready":
            worker.ready = True
            self._deaths_at_start = 0
        elif kind == "unusable":
            raise UserError(content)
        elif kind == "broken":
            raise RuntimeError(f"A worker cannot build its evaluator:\n{content}")
        elif worker.trial is not None:
            trial, worker.trial = worker.trial, None
            if kind == "done":
                self._end_given_up()
                self._end(trial, content)
            else:
                worker.ending = True
                self._fail(trial, content)

    def _replace(self, worker: WorkerHandle, how: str) -> None:
        """Puts a new worker in the place of one that has ended."""
        self.deaths += 1
        if not worker.ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MAX_ATTEMPTS * self.num_workers:
                raise UserError(
                    f"The workers die before they are ready, {self._deaths_at_start} in "
                    f"succession; the last: {how}"
                )
            if worker.trial is not None:  # which it has not seen yet
                self._queue.appendleft(worker.trial)
        elif worker.trial is not None:
            self._fail(worker.trial, how)
        index = self.workers.index(worker)
        self.workers[index] = self._create(index)

    def _fail(self, trial: Trial, how: str) -> None:
        """Requeues a failed trial first, or gives it up after `MAX_ATTEMPTS`."""
        self._attempts[trial.id] += 1
        if self._attempts[trial.id] < MAX_ATTEMPTS:
            self._queue.appendleft(trial)
            return
        failed = Verdict("evaluation", EVALUATION_FAILED, details={"message": how})
        self._given_up.append(Outcome(trial, failed))
        if len(self._given_up) >= MAX_FAILURES:
            raise UserError(
                f"{MAX_FAILURES} evaluations in succession failed, each in {MAX_ATTEMPTS} "
                f"processes; the last: {how}"
            )

    def _end_given_up(self) -> None:
        for outcome in self._given_up:
            self._end(outcome.trial, outcome.verdict)
        self._given_up = []

    def _end(self, trial: Trial, verdict: Verdict) -> None:
        del self._attempts[trial.id]
        self._ended.append(Outcome(trial, verdict))
