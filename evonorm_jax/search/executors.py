"""What evaluates candidates elsewhere, and what all such places have in common.

An executor takes tasks and gives outcomes in whatever order they end. A worker that dies takes
nothing along: its task goes to another one, and a task on which several have failed is given up,
once a later one has shown that the fault is not the machine's.
`local_executor.py` has processes of this machine, `ray_executor.py` actors on a cluster.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine import Engine, Evaluation
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.protocol import Protocol

#: A pure function of a graph and a seed.
Evaluate = Callable[[Graph, int], Evaluation]

#: Workers that may fail on a task, by dying or by an exception. Each time another, fresh process
#: tries, because one kill may be an accident and a GPU may be left in an error that stays.
MAX_ATTEMPTS = 3

#: Tasks that may be given up in succession before the fault is not looked for in the candidates.
MAX_FAILURES = 5

#: The reason why a task was given up, beside those of the filters and the engine.
FAILED = "evaluation_failed"


@dataclasses.dataclass(frozen=True)
class Task:
    """An evaluation to make.

    Attributes:
      id: of the outcome; no two tasks in an executor share one.
      graph: what to evaluate.
      seed: of the evaluation.
    """

    id: Any
    graph: Graph
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A task that has come to its end."""

    task: Task
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True)
class EngineFactory:
    """Builds the engine in a worker: small to send, and JAX starts where it is called.

    Attributes:
      protocol: how layers are evaluated, in the form of `Protocol.to_json`.
      dataset: `config.dataset`, as a dictionary.
    """

    protocol: Mapping[str, Any]
    dataset: Mapping[str, Any]

    def __call__(self) -> Evaluate:
        protocol = Protocol.from_json(self.protocol)
        return Engine(protocol, ConfigDict(self.dataset)).evaluate


class Worker:
    """What an executor knows of one of its workers.

    Attributes:
      task: what it has; None if it is idle.
      ready: whether its evaluator is built.
      ending: whether it may get no other task, after an exception in the last one.
    """

    def __init__(self) -> None:
        self.task: Task | None = None
        self.ready = False
        self.ending = False

    @property
    def is_free(self) -> bool:
        """Whether it can have a task."""
        return self.task is None and not self.ending


#: What a worker says: "ready" when it is built, or "unusable" (the user's mistake) or "broken" (any
#: other exception) if it cannot be; then of each task "done" or "failed". With the content for it.
Message = tuple[str, Any]


def build(make_evaluate: Callable[[], Evaluate]) -> tuple[Evaluate | None, Message]:
    """In a worker: its evaluator, if it can be built, and what to say."""
    try:
        return make_evaluate(), ("ready", os.getpid())
    except UserError as error:
        return None, ("unusable", str(error))
    except Exception:
        return None, ("broken", traceback.format_exc())


def attempt(evaluate: Evaluate, task: Task) -> Message:
    """In a worker: evaluates, and what to say."""
    try:
        return "done", evaluate(task.graph, task.seed)
    except Exception:
        return "failed", traceback.format_exc(limit=-8)


class Executor(abc.ABC):
    """Workers that evaluate one task each at a time.

    Attributes:
      num_workers: how many there are.
      workers: them, once there was a task.
      deaths: how many have ended so far and were replaced, whatever of.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.workers: list[Any] = []
        self.deaths = 0
        self._queue: deque[Task] = deque()
        self._attempts: Counter[Any] = Counter()
        self._given_up: list[Outcome] = []  # since the last success
        self._deaths_at_start = 0  # of workers that were never ready, in succession
        self._ended: list[Outcome] = []

    @property
    def num_unfinished(self) -> int:
        """Tasks that were submitted and not yet handed out as outcomes."""
        return self._num_active + len(self._ended) + len(self._given_up)

    @property
    def has_room(self) -> bool:
        """Whether some worker has nothing to do.

        Tasks wait with the search, not here: a proposal should know of as many results as it can.
        """
        return self._num_active + len(self._ended) < self.num_workers

    def submit(self, task: Task) -> None:
        """Takes a task, for the next worker that is free; the first one starts the workers."""
        self._queue.append(task)
        if not self.workers:
            self.workers = [self._create(i) for i in range(self.num_workers)]
        self._start_tasks()

    def wait(self, timeout: float) -> list[Outcome]:
        """The tasks that have ended since the last call.

        Args:
          timeout: seconds to wait for one at most.

        Raises:
          UserError: the workers cannot do their work, whatever the task.
        """
        if not self._num_active:  # no success can come any more
            self._end_given_up()
        if not self._ended and self.workers:
            self._collect(timeout)
        self._start_tasks()
        ended, self._ended = self._ended, []
        return ended

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the workers, and with them what they are doing."""

    @abc.abstractmethod
    def _create(self, index: int) -> Any:
        """A new worker, for that place."""

    @abc.abstractmethod
    def _start(self, worker: Any, task: Task) -> None:
        """Gives a free worker a task."""

    @abc.abstractmethod
    def _collect(self, timeout: float) -> None:
        """Waits for something to happen, and calls `_take` for messages, `_replace` for deaths."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _num_active(self) -> int:
        """Tasks that wait for a worker or that one has."""
        return len(self._queue) + sum(worker.task is not None for worker in self.workers)

    def _start_tasks(self) -> None:
        for worker in self.workers:
            if self._queue and worker.is_free:
                worker.task = self._queue.popleft()
                self._start(worker, worker.task)

    def _take(self, worker: Worker, message: Message) -> None:
        kind, content = message
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
                self._end_given_up()
                self._end(task, content)
            else:
                worker.ending = True
                self._fail(task, content)

    def _replace(self, worker: Worker, how: str) -> None:
        """Puts a new worker in the place of one that has ended."""
        self.deaths += 1
        if not worker.ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MAX_ATTEMPTS * self.num_workers:
                raise UserError(
                    f"The workers die before they are ready, {self._deaths_at_start} in "
                    f"succession; the last: {how}"
                )
            if worker.task is not None:  # which it has not seen yet
                self._queue.appendleft(worker.task)
        elif worker.task is not None:
            self._fail(worker.task, how)
        index = self.workers.index(worker)
        self.workers[index] = self._create(index)

    def _fail(self, task: Task, how: str) -> None:
        """Of a task on which a worker failed: another gets it, before all others, or it is over."""
        self._attempts[task.id] += 1
        if self._attempts[task.id] < MAX_ATTEMPTS:
            self._queue.appendleft(task)
            return
        failed = Evaluation(stage="evaluation", reason=FAILED, details={"message": how})
        self._given_up.append(Outcome(task, failed))
        if len(self._given_up) >= MAX_FAILURES:
            raise UserError(
                f"{MAX_FAILURES} evaluations in succession failed, each in {MAX_ATTEMPTS} "
                f"processes; the last: {how}"
            )

    def _end_given_up(self) -> None:
        for outcome in self._given_up:
            self._end(outcome.task, outcome.evaluation)
        self._given_up = []

    def _end(self, task: Task, evaluation: Evaluation) -> None:
        del self._attempts[task.id]
        self._ended.append(Outcome(task, evaluation))
