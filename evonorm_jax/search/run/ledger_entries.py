"""The candidates of a ledger with what became of them, too many to hold them all as objects."""

from __future__ import annotations

import dataclasses
import heapq
import os
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate, CandidateResult
from evonorm_jax.search.run.ledger_file import open_to_read
from evonorm_jax.search.run.ledger_rows import Row


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """A candidate in the ledger.

    Attributes:
      candidate: Its number, graph and parent.
      seed: The seed of its evaluation.
      function: Its functional hash; None if a cheaper filter rejected it.
      results_before: How many results the search knew when it proposed the candidate.
      time: When it was proposed, in seconds since 1970.
      place: The place of its result among the results; None while it has none.
      verdict: What became of it; None while it has no result.
      result_time: When its result came, in seconds since 1970; None while it has none.
    """

    candidate: Candidate
    seed: int
    function: str | None
    results_before: int
    time: float
    place: int | None = None
    verdict: Verdict | None = None
    result_time: float | None = None

    @property
    def id(self) -> int:
        """The number of the candidate."""
        return self.candidate.id

    @property
    def is_scored(self) -> bool:
        """Whether it has scores on all networks."""
        return self.verdict is not None and self.verdict.reason is None

    @property
    def mean(self) -> float:
        """The mean accuracy over the networks, in percent, of a scored candidate."""
        assert self.verdict is not None
        return _mean(self.verdict.scores.values())


class LedgerEntries(Sequence[LedgerEntry]):
    """The candidates of a ledger, by number, as they were when it was read.

    Numbers are kept in memory, about 0.2 kB a candidate. Graphs and details, which never change,
    stay in the file: they are read when an entry is asked for. So go through the entries in one
    loop, or ask for those that you need.

    Args:
      path: The ledger.

    Attributes:
      path: The ledger.
      seeds: By candidate, the seed of its evaluation.
      functions: By candidate, its functional hash; None if a cheaper filter rejected it.
      results_before: By candidate, how many results the search knew when it proposed it.
      ids: By result, in the order of the results, the number of the candidate.
      stages: By result, how far the candidate came.
      reasons: By result, why it was rejected; None where it was scored.
      steps: By result, its training steps.
      seconds: By result, how long the evaluation took.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.seeds, self.results_before = array("q"), array("q")
        self.functions: list[str | None] = []
        self._parents, self._times = array("q"), array("d")  # -1: no parent
        self.ids, self.steps, self.seconds = array("q"), array("q"), array("d")
        self.stages: list[str] = []
        self.reasons: list[str | None] = []
        self._result_times = array("d")
        self._places = array("q")  # by candidate; -1: no result
        self._networks: list[tuple[str, ...]] = []  # by result; equal ones are one object
        self._known_networks: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._scores, self._starts = array("d"), array("q", [0])

    def add_candidate(self, row: Row) -> None:
        """Takes the next row of `candidates`.

        Raises:
          UserError: A column is not what it should be.
        """
        candidate = row.candidate()
        if candidate.id != len(self):
            row.refuse("id", f"{len(self)}: a ledger has all numbers from 0")
        self._parents.append(-1 if candidate.parent is None else candidate.parent)
        self.seeds.append(row.whole("seed"))
        self.functions.append(row.text_or_none("function"))
        self.results_before.append(row.whole("results_before"))
        self._times.append(row.seconds("time"))
        self._places.append(-1)

    def add_result(self, row: Row) -> None:
        """Takes the next row of `results`, once all candidates are there.

        Raises:
          UserError: A column is not what it should be.
        """
        candidate, place, verdict = row.whole("candidate"), row.whole("place"), row.verdict()
        if candidate >= len(self):
            row.refuse("candidate", "the number of a candidate")
        if place != len(self.ids):
            row.refuse("place", f"{len(self.ids)}: a ledger has all numbers from 0")
        self._places[candidate] = place
        self.ids.append(candidate)
        self.stages.append(sys.intern(verdict.stage))
        self.reasons.append(None if verdict.reason is None else sys.intern(verdict.reason))
        self.steps.append(verdict.steps)
        self.seconds.append(verdict.seconds)
        networks = tuple(verdict.scores)
        self._networks.append(self._known_networks.setdefault(networks, networks))
        self._scores.extend(verdict.scores.values())
        self._starts.append(len(self._scores))
        self._result_times.append(row.seconds("time"))

    def check_order(self) -> None:
        """Raises `UserError` where the search knew more results at a proposal than there are."""
        for number, known in enumerate(self.results_before):
            if known > len(self.ids):
                Row(self.path, f"candidates, id {number}", {"results_before": known}).refuse(
                    "results_before", f"at most {len(self.ids)}, the number of results"
                )

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, index: int) -> LedgerEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[LedgerEntry]: ...

    def __getitem__(self, index: int | slice) -> LedgerEntry | list[LedgerEntry]:
        if isinstance(index, slice):
            return list(self.read(range(len(self))[index]))
        (entry,) = self.read([range(len(self))[index]])
        return entry

    def __iter__(self) -> Iterator[LedgerEntry]:
        query = "SELECT graph, details FROM candidates LEFT JOIN results ON candidate = id"
        with open_to_read(self.path) as connection:
            rows = connection.execute(f"{query} WHERE id < ? ORDER BY id", (len(self),))
            for number, texts in enumerate(rows):
                yield self._entry(number, *texts)

    def __eq__(self, other: object) -> bool:
        """Whether the other is a sequence of the same entries."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def read(self, numbers: Iterable[int]) -> Iterator[LedgerEntry]:
        """Reads the entries of some candidates.

        Args:
          numbers: Their numbers, in the order of the entries.
        """
        query = "SELECT graph, details FROM candidates LEFT JOIN results ON candidate = id"
        with open_to_read(self.path) as connection:
            for number in numbers:
                (texts,) = connection.execute(f"{query} WHERE id = ?", (number,))
                yield self._entry(number, *texts)

    def candidates(self) -> Iterator[Candidate]:
        """Reads the numbers, graphs and parents alone, of all candidates in order."""
        with open_to_read(self.path) as connection:
            query = "SELECT graph FROM candidates WHERE id < ? ORDER BY id"
            for number, (graph,) in enumerate(connection.execute(query, (len(self),))):
                yield self._candidate(number, graph)

    def result(self, place: int, anchors: tuple[str, ...]) -> CandidateResult:
        """Returns what the search was told, as its result number `place`.

        Args:
          place: The place among the results.
          anchors: The networks in the order of a candidate's scores.
        """
        candidate, reason = self.ids[place], self.reasons[place]
        if reason is not None:
            return CandidateResult(candidate, rejected=reason)
        if self._networks[place] == anchors:
            return CandidateResult(candidate, scores=tuple(self._values(place)))
        scores = self.scores(place)
        return CandidateResult(candidate, scores=tuple(scores[name] for name in anchors))

    def scores(self, place: int) -> dict[str, float]:
        """Returns the accuracies in percent by network, of the result number `place`."""
        return dict(zip(self._networks[place], self._values(place), strict=True))

    def find_without(self, networks: Iterable[str]) -> int | None:
        """Returns the first result with scores that lacks one of some networks; None if none."""
        lacking = {known for known in self._known_networks if not {*known} >= {*networks}}
        for place, reason in enumerate(self.reasons if lacking else ()):
            if reason is None and self._networks[place] in lacking:
                return place
        return None

    def is_random(self, place: int) -> bool:
        """Whether the candidate of the result number `place` is a random graph, no mutation."""
        return self._parents[self.ids[place]] < 0

    def best(self, count: int, among: Iterable[int] | None = None) -> list[LedgerEntry]:
        """Returns the scored candidates of the highest mean accuracy; of equals the earlier.

        Args:
          count: How many.
          among: The numbers of the candidates to choose from, in order; all by default.
        """
        means = {}
        for number in range(len(self)) if among is None else among:
            place = self._places[number]
            if place >= 0 and self.reasons[place] is None:
                means[number] = self.mean(place)
        return list(self.read(heapq.nsmallest(count, means, key=lambda number: -means[number])))

    def mean(self, place: int) -> float:
        """Returns the mean accuracy over the networks, in percent, of the result `place`."""
        return _mean(self._values(place))

    def _values(self, place: int) -> array[float]:
        return self._scores[self._starts[place] : self._starts[place + 1]]

    def _entry(self, number: int, graph: str, details: str | None) -> LedgerEntry:
        place = self._places[number]
        verdict = None
        if place >= 0:
            row = Row(self.path, f"results, candidate {number}", {"details": details})
            verdict = Verdict(
                stage=self.stages[place],
                reason=self.reasons[place],
                scores=self.scores(place),
                seconds=self.seconds[place],
                steps=self.steps[place],
                details=row.object("details"),
            )
        return LedgerEntry(
            candidate=self._candidate(number, graph),
            seed=self.seeds[number],
            function=self.functions[number],
            results_before=self.results_before[number],
            time=self._times[number],
            place=None if verdict is None else place,
            verdict=verdict,
            result_time=None if verdict is None else self._result_times[place],
        )

    def _candidate(self, number: int, graph: str) -> Candidate:
        parent = self._parents[number]
        row = Row(self.path, "candidates", {"id": number, "graph": graph}, key="id")
        return Candidate(number, row.graph("graph"), None if parent < 0 else parent)


def _mean(scores: Collection[float]) -> float:
    return sum(scores) / len(scores)
