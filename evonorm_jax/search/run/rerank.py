"""The best candidates of a search, evaluated again at a larger budget (paper, section 3.3).

A short training is a noisy judge. The ten best by mean accuracy get a longer one in all networks,
and the three best of those are the result. Evaluations go into the ledger of the search, and what
is there is not done again.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import block, check_fields, check_known, whole
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.run.executor import Executor
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_entries import LedgerEntry
from evonorm_jax.search.run.ledger_reader import LedgerContents
from evonorm_jax.search.run.worker import Trial

#: The folder of the winners' graph files, 1.json and so on, within that of the search.
WINNERS = "winners"

#: Seconds between two looks at whether to stop.
_POLL_SECONDS = 0.2

_FIELDS = dict.fromkeys(("num_candidates", "num_winners", "num_seeds"), whole(1))


@dataclasses.dataclass(frozen=True)
class RerankConfig:
    """How the best are evaluated again.

    Attributes:
      protocol: How they are trained and judged.
      num_candidates: How many are evaluated again; the paper's ten.
      num_winners: How many of them are the result; the paper's three.
      num_seeds: How many evaluations each gets; their mean counts.
    """

    protocol: ProxyProtocol
    num_candidates: int = 10
    num_winners: int = 3
    num_seeds: int = 1

    def __post_init__(self) -> None:
        check_fields(vars(self), _FIELDS, "rerank")
        if self.num_winners > self.num_candidates:
            raise UserError(
                f"rerank.num_winners={self.num_winners} must not be above "
                f"rerank.num_candidates={self.num_candidates}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RerankConfig:
        """Reads the field `rerank` of a search's config, given as nested dictionaries.

        Raises:
          UserError: A field is unknown, of another type or out of range.
        """
        check_fields({"rerank": config}, {"rerank": block(), "rerank.protocol": block()}, "")
        check_known(config, ["protocol", *_FIELDS], "rerank")
        try:
            protocol = ProxyProtocol.from_dict(config["protocol"])
        except UserError as error:
            raise UserError(f"In rerank: {error}") from error
        return cls(**{**config, "protocol": protocol})

    def evaluation(self) -> dict[str, Any]:
        """Returns what may not change once there are evaluations, for the ledger."""
        return {"protocol": self.protocol.to_dict()}


@dataclasses.dataclass(frozen=True)
class Standing:
    """A candidate and the verdicts on it at the larger budget.

    Attributes:
      entry: The candidate in the ledger.
      verdicts: One for each seed so far.
    """

    entry: LedgerEntry
    verdicts: tuple[Verdict, ...]

    @property
    def reason(self) -> str | None:
        """Why it failed, if it did."""
        return next((v.reason for v in self.verdicts if v.reason is not None), None)

    @property
    def scores(self) -> dict[str, float]:
        """The mean accuracy over the seeds by network, in percent; empty if it failed or waits."""
        if not self.verdicts or self.reason is not None:
            return {}
        names = self.verdicts[0].scores
        return {n: statistics.fmean(v.scores[n] for v in self.verdicts) for n in names}

    @property
    def mean(self) -> float:
        """The mean over networks and seeds, in percent; minus infinity if it failed or waits."""
        return statistics.fmean(self.scores.values()) if self.scores else float("-inf")


def standings(contents: LedgerContents, num_candidates: int | None = None) -> list[Standing]:
    """Returns the best candidates of the search, the best at the larger budget first.

    Args:
      contents: The ledger.
      num_candidates: How many; None for all that were evaluated at the larger budget.
    """
    evaluated = sorted({id for id, _ in contents.reranked})
    if num_candidates is None:
        best = contents.entries.best(len(evaluated), among=evaluated)
    else:
        best = contents.entries.best(num_candidates)
    found = []
    for entry in best:
        verdicts = tuple(v for (id, _), v in contents.reranked.items() if id == entry.id)
        found.append(Standing(entry, verdicts))
    return sorted(found, key=lambda standing: -standing.mean)


def rerank(
    config: RerankConfig,
    ledger: Ledger,
    executor: Executor,
    show: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Makes the evaluations that are missing.

    Args:
      config: How the best are evaluated again.
      ledger: The open ledger of the search.
      executor: Evaluates.
      show: Is called after every evaluation with how many are done, and how many there are.
      should_stop: Tells whether to stop.

    Returns:
      True if all evaluations are there, False if it was asked to stop.

    Raises:
      UserError: The search has scored no candidate, or an earlier reranking in this ledger had
        another protocol.
    """
    contents = ledger.contents()
    best = contents.entries.best(config.num_candidates)
    if not best:
        raise UserError(f"{ledger.path}: the search has scored no candidate yet.")
    ledger.set_rerank_config(config.evaluation())
    wanted = [(entry, seed) for seed in range(config.num_seeds) for entry in best]
    waiting = [
        Trial((entry.id, seed), entry.candidate.graph, seed)
        for entry, seed in wanted
        if (entry.id, seed) not in contents.reranked
    ]
    left = len(waiting)
    show(len(wanted) - left, len(wanted))
    while left:
        if should_stop():
            return False
        while waiting and executor.has_room:
            executor.submit(waiting.pop(0))
        for outcome in executor.wait(_POLL_SECONDS):
            candidate, seed = outcome.trial.id
            ledger.add_reranked(candidate, seed, outcome.verdict)
            ledger.commit()
            left -= 1
            show(len(wanted) - left, len(wanted))
    return True
