"""Drives a search: proposes, filters, has the rest evaluated, and writes everything down.

With one worker the same seed gives the same search. With several, results come in whatever order
the evaluations end; the ledger keeps that order, so that a resumed search goes on from exactly the
state in which it was killed.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine import Evaluation, Stage
from evonorm_jax.search.evolution import Candidate, Search, SearchConfig, replay
from evonorm_jax.search.executors import Executor, Task
from evonorm_jax.search.filters import (
    Duplicates,
    FilterConfig,
    Reason,
    Rejection,
    functional_hash,
    reject,
)
from evonorm_jax.search.graph import X
from evonorm_jax.search.ledger import Ledger
from evonorm_jax.search.protocol import Protocol as SearchProtocol
from evonorm_jax.search.records import Contents, search_events, to_result
from evonorm_jax.search.space import SearchSpace

#: Candidates that may be rejected without training in succession. Of random graphs one in 25 is
#: trained, so then the space is used up.
MAX_REJECTIONS = 20_000

_POLL_SECONDS = 0.2  # between two looks at whether to stop
_COMMIT_SECONDS = 1.0  # of cheap rejections in a row, which are made again if a kill takes them


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a search is made of.

    Attributes:
      search: how it proposes candidates.
      space: what it draws them from.
      filters: thresholds of the filters that need no training; None has everything evaluated that
        sees x, duplicates included.
      anchors: names of the networks that candidates are scored on, in the order of their scores.
    """

    search: SearchConfig
    space: SearchSpace
    filters: FilterConfig | None
    anchors: tuple[str, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Those of a config file, as nested dictionaries.

        Raises:
          UserError: a value is out of range.
        """
        protocol = SearchProtocol.from_json(config["protocol"])
        anchors = tuple(anchor.name for anchor in protocol.anchors)
        fields = {"seed": config["seed"], "num_scores": len(anchors), **config["search"]}
        space = SearchSpace(**config["space"])
        return cls(SearchConfig(**fields), space, protocol.filters, anchors)


class Display(Protocol):
    """Shows where a search stands."""

    def update(self, search: Search, deaths: int) -> None:
        """Called often; shows something when it is time to."""


class Driver:
    """A search and its ledger, in step.

    Args:
      settings: of the search.
      ledger: open; what it holds is gone on with.
      executor: evaluates what the filters let through.
      display: is shown the search all the time.

    Raises:
      UserError: the ledger is not that of these settings.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, executor: Executor, display: Display
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.executor = executor
        self.display = display
        contents = ledger.contents()
        self.search = resume_search(settings, contents)
        self._duplicates = Duplicates()
        for entry in contents.entries:
            if entry.function is not None:
                self._duplicates.check(entry.function, candidate=entry.id)
        seeds = {entry.id: entry.seed for entry in contents.entries}
        self._waiting = deque(
            Task(candidate.id, candidate.graph, seeds[candidate.id])
            for candidate in self.search.pending
        )
        self._num_results = sum(entry.place is not None for entry in contents.entries)

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Searches until the budget is used up or it is asked to stop.

        What is being evaluated then is left to the next start.

        Returns:
          Whether the search has ended.
        """
        while not should_stop():
            while self.executor.has_room and not should_stop():
                task = self._waiting.popleft() if self._waiting else self._propose(should_stop)
                if task is None:
                    break
                self.executor.submit(task)
            if not self.executor.num_unfinished and not should_stop():
                self.display.update(self.search, self.executor.deaths)
                return True
            for outcome in self.executor.wait(_POLL_SECONDS):
                self._record(outcome.task.id, outcome.evaluation)
                self.ledger.commit()
            self.display.update(self.search, self.executor.deaths)
        return False

    def _propose(self, should_stop: Callable[[], bool]) -> Task | None:
        """The next candidate that no filter rejects; None at the end of the budget.

        Raises:
          UserError: there seems to be none.
        """
        last_commit = time.monotonic()
        task, num_rejected = None, 0
        while task is None and not should_stop():
            candidate = self.search.ask()
            if candidate is None:
                break
            started = time.perf_counter()
            rejection, function = self._filter(candidate)
            seed = evaluation_seed(self.settings.search.seed, candidate.id)
            self.ledger.add_candidate(
                candidate, seed=seed, function=function, results_before=self._num_results
            )
            if rejection is None:
                task = Task(candidate.id, candidate.graph, seed)
            else:
                seconds = time.perf_counter() - started
                self._record(candidate.id, _rejected(rejection, seconds))
                num_rejected += 1
                if num_rejected == MAX_REJECTIONS:
                    self.ledger.commit()
                    raise UserError(
                        f"{MAX_REJECTIONS:,} candidates in succession were rejected without "
                        f"training, the last as {rejection.reason}: the space of "
                        f"num_nodes={self.settings.space.num_nodes} seems to hold no more. Search "
                        "a larger one, or end with search.max_candidates."
                    )
            if time.monotonic() - last_commit > _COMMIT_SECONDS:
                self.ledger.commit()
                self.display.update(self.search, self.executor.deaths)
                last_commit = time.monotonic()
        self.ledger.commit()
        return task

    def _filter(self, candidate: Candidate) -> tuple[Rejection | None, str | None]:
        """Why not to train a candidate, and its functional hash if that was looked at."""
        filters = self.settings.filters
        if filters is None:
            sees_x = X in candidate.graph.effective
            return (None if sees_x else Rejection(Reason.NO_PATH_FROM_X)), None
        if (rejection := reject(candidate.graph, filters)) is not None:
            return rejection, None
        function = functional_hash(candidate.graph)
        return self._duplicates.check(function, candidate=candidate.id), function

    def _record(self, candidate: int, evaluation: Evaluation) -> None:
        result = to_result(candidate, evaluation, self.settings.anchors)
        self.search.tell(candidate, scores=result.scores, rejected=result.rejected)
        self.ledger.add_result(candidate, evaluation, place=self._num_results)
        self._num_results += 1


def resume_search(settings: Settings, contents: Contents) -> Search:
    """The search in the state that its ledger describes.

    Raises:
      UserError: it would have proposed other candidates.
    """
    events = search_events(contents.entries, settings.anchors)
    # The budget may have been made smaller since; what was proposed stays.
    unlimited = dataclasses.replace(
        settings.search, max_candidates=len(contents.entries) + 1, max_scored=None
    )
    search = replay(unlimited, settings.space, events)
    search.config = settings.search
    return search


def evaluation_seed(search_seed: int, candidate: int) -> int:
    """The seed of a candidate's evaluation: a number below 2**31 that no other one is near.

    >>> evaluation_seed(0, 0), evaluation_seed(0, 1)
    (1484405855, 1982462498)
    """
    sequence = np.random.SeedSequence([search_seed, candidate])
    return int(sequence.generate_state(1)[0]) >> 1


def _rejected(rejection: Rejection, seconds: float) -> Evaluation:
    details = {"message": rejection.detail} if rejection.detail else {}
    return Evaluation(
        stage=str(Stage.FILTERS),
        reason=str(rejection.reason),
        scores={},
        seconds=seconds,
        steps=0,
        details=details,
    )


class StopRequest:
    """Notes Ctrl-C and SIGTERM, so that the search ends between two steps; for a `with` block.

    A second Ctrl-C raises `KeyboardInterrupt`.

    >>> with StopRequest() as stop:
    ...     stop()
    False
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What is ignored stays so: SIGINT of a background job.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
