"""The best candidates of a search, evaluated again at a larger budget (paper, section 3.3).

A short training is a noisy judge. The ten best by mean accuracy get a longer one in all networks,
and the three best of those are the result. Evaluations go into the ledger of the search, so what is
there is not done again.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine import Evaluation
from evonorm_jax.search.executors import Executor, Task
from evonorm_jax.search.ledger import Ledger
from evonorm_jax.search.protocol import Protocol as SearchProtocol
from evonorm_jax.search.records import Contents, Entry

#: Folder of the winners' graph files, 1.json and so on, within that of the search.
WINNERS = "winners"

_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class RerankConfig:
    """How the best are evaluated again.

    Attributes:
      num_candidates: how many; the paper's ten.
      num_winners: how many of them are the result; the paper's three.
      num_seeds: evaluations of each; their mean counts.
      protocol: of the evaluations, in the form of `Protocol.to_json`.
    """

    protocol: Mapping[str, Any]
    num_candidates: int = 10
    num_winners: int = 3
    num_seeds: int = 1

    def __post_init__(self) -> None:
        SearchProtocol.from_json(self.protocol)
        for field in ("num_candidates", "num_winners", "num_seeds"):
            if (value := getattr(self, field)) < 1:
                raise UserError(f"rerank.{field}={value} must be at least 1")
        if self.num_winners > self.num_candidates:
            raise UserError(
                f"rerank.num_winners={self.num_winners} must not be above "
                f"rerank.num_candidates={self.num_candidates}"
            )

    @property
    def evaluation(self) -> dict[str, Any]:
        """What may not change once there are evaluations."""
        return {"protocol": self.protocol}


@dataclasses.dataclass(frozen=True)
class Standing:
    """A candidate and its evaluations at the larger budget.

    Attributes:
      entry: the candidate in the ledger.
      evaluations: one for each seed so far.
    """

    entry: Entry
    evaluations: tuple[Evaluation, ...]

    @property
    def reason(self) -> str | None:
        """Why it failed, if it did."""
        return next((e.reason for e in self.evaluations if e.reason is not None), None)

    @property
    def scores(self) -> dict[str, float]:
        """Accuracy by network in percent, mean over the seeds; empty if it failed or waits."""
        if not self.evaluations or self.reason is not None:
            return {}
        names = self.evaluations[0].scores
        return {n: statistics.fmean(e.scores[n] for e in self.evaluations) for n in names}

    @property
    def mean(self) -> float:
        """Over networks and seeds, in percent; below all others if it failed or waits."""
        return statistics.fmean(self.scores.values()) if self.scores else float("-inf")


def standings(contents: Contents, num_candidates: int) -> list[Standing]:
    """The best candidates of the search, the best at the larger budget first."""
    found = []
    for entry in contents.best(num_candidates):
        evaluations = tuple(e for (id, _), e in contents.reranked.items() if id == entry.id)
        found.append(Standing(entry, evaluations))
    return sorted(found, key=lambda standing: -standing.mean)


class Display(Protocol):
    """Shows how far it is."""

    def update(self, done: int, total: int) -> None:
        """Called after every evaluation."""


def rerank(
    config: RerankConfig,
    ledger: Ledger,
    executor: Executor,
    display: Display,
    should_stop: Callable[[], bool],
) -> bool:
    """Makes the evaluations that are missing.

    Returns:
      Whether all are there; False if it was asked to stop.

    Raises:
      UserError: the search has scored no candidate, or an earlier reranking in this ledger had
        another protocol.
    """
    contents = ledger.contents()
    best = contents.best(config.num_candidates)
    if not best:
        raise UserError(f"{ledger.path}: the search has scored no candidate yet.")
    ledger.set_rerank_config(config.evaluation)
    wanted = [(entry, seed) for seed in range(config.num_seeds) for entry in best]
    waiting = [
        Task((entry.id, seed), entry.candidate.graph, seed)
        for entry, seed in wanted
        if (entry.id, seed) not in contents.reranked
    ]
    left = len(waiting)
    display.update(len(wanted) - left, len(wanted))
    while left:
        if should_stop():
            return False
        while waiting and executor.has_room:
            executor.submit(waiting.pop(0))
        for outcome in executor.wait(_POLL_SECONDS):
            candidate, seed = outcome.task.id
            ledger.add_reranked(candidate, seed, outcome.evaluation)
            ledger.commit()
            left -= 1
            display.update(len(wanted) - left, len(wanted))
    return True
