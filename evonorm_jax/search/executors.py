"""What evaluates candidates elsewhere, and what all such places have in common.

An executor takes tasks and gives outcomes in whatever order they end. A worker that dies takes
nothing along: its task goes to another one, and a task on which several have failed is given up.
`local_executor.py` has processes of this machine, `ray_executor.py` actors on a cluster.
"""

from __future__ import annotations

import abc
import dataclasses
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
EVALUATION_FAILED = "evaluation_failed"


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


class Executor(abc.ABC):
    """Workers that evaluate one task each at a time.

    Attributes:
      num_workers: how many there are.
      deaths: how many have died so far, whatever of.
    """

    num_workers: int

    def __init__(self) -> None:
        self.deaths = 0
        self._queue: deque[Task] = deque()
        self._attempts: Counter[Any] = Counter()
        self._failures = 0  # in succession
        self._ended: list[Outcome] = []

    @property
    def num_unfinished(self) -> int:
        """Tasks that were submitted and have no outcome yet."""
        return len(self._queue) + self._num_running() + len(self._ended)

    @property
    def has_room(self) -> bool:
        """Whether some worker has nothing to do.

        Tasks wait with the search, not here: a proposal should know of as many results as it can.
        """
        return self.num_unfinished < self.num_workers

    def submit(self, task: Task) -> None:
        """Takes a task, for the next worker that is free."""
        self._queue.append(task)
        self._start_tasks()

    def wait(self, timeout: float) -> list[Outcome]:
        """The tasks that have ended since the last call.

        Args:
          timeout: seconds to wait for one at most.

        Raises:
          UserError: the workers cannot do their work, whatever the task.
        """
        if not self._ended:
            self._collect(timeout)
        self._start_tasks()
        ended, self._ended = self._ended, []
        return ended

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the workers, and with them what they are doing."""

    @abc.abstractmethod
    def _num_running(self) -> int:
        """Tasks that workers have."""

    @abc.abstractmethod
    def _start_tasks(self) -> None:
        """Gives waiting tasks to free workers."""

    @abc.abstractmethod
    def _collect(self, timeout: float) -> None:
        """Waits for workers to end tasks or die, and calls the methods below."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, task: Task, evaluation: Evaluation) -> None:
        del self._attempts[task.id]
        self._failures = 0
        self._ended.append(Outcome(task, evaluation))

    def _failed(self, task: Task, how: str) -> None:
        """Of a task on which a worker failed: another gets it, before all others, or it is over."""
        self._attempts[task.id] += 1
        if self._attempts[task.id] < MAX_ATTEMPTS:
            self._queue.appendleft(task)
            return
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise UserError(
                f"{MAX_FAILURES} evaluations in succession failed, each in {MAX_ATTEMPTS} "
                f"processes; the last: {how}"
            )
        del self._attempts[task.id]
        self._ended.append(Outcome(task, _failure(how)))


def _failure(message: str) -> Evaluation:
    return Evaluation(
        stage="evaluation",
        reason=EVALUATION_FAILED,
        scores={},
        seconds=0.0,
        steps=0,
        details={"message": message},
    )
