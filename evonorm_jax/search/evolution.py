"""Regularized evolution with tournaments, as a state machine without any training in it.

`ask` proposes a candidate, `tell` takes its scores or the reason why it was rejected, in whatever
order the evaluations end. Everything random comes from the seed and the number of the candidate,
so the same results in the same order give the same search, and `replay` rebuilds its state from a
record of them.

Evolution is that of Real et al. (AAAI 2019): a population of the last P candidates that were
scored; a random subset of it competes; the winner's mutated copy is evaluated and joins, and the
oldest member leaves, good or not. Random search proposes random graphs to the end; with rejection
before training it is the paper's baseline.

>>> from evonorm_jax.search.space import SearchSpace
>>> search = Search(SearchConfig(population_size=4, max_candidates=9, num_scores=1), SearchSpace())
>>> while (candidate := search.ask()) is not None:
...     search.tell(candidate.id, scores=[len(candidate.graph.effective) / 14])
>>> search.num_scored, search.best.id in [member.id for member in search.scored]
(9, True)
"""

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.mutation import mutate, mutate_layer
from evonorm_jax.search.space import SearchSpace, random_graph

STRATEGIES = ("evolution", "random")
CRITERIA = ("pareto", "average")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How a search proposes candidates. The paper gives no numbers for these: they are ours.

    Attributes:
      strategy: "evolution", or "random" for random search.
      seed: of everything that is drawn.
      population_size: members alive; as many random candidates are scored before the first
        tournament.
      tournament_fraction: share of the population that competes, at least two members.
      criterion: who wins: "pareto", a random member of the tournament's Pareto front (the paper's
        choice), or "average", the one with the best mean score.
      num_scores: scores of a candidate, one for each anchor network.
      skip_neutral: mutate on until the layer changes, rather than spend a candidate on a graph
        that differs in unused nodes only.
      max_candidates: the search ends after proposing so many; None for no such limit.
      max_scored: the search ends after scoring so many; None for no such limit.
    """

    strategy: str = "evolution"
    seed: int = 0
    population_size: int = 500
    tournament_fraction: float = 0.05
    criterion: str = "pareto"
    num_scores: int = 3
    skip_neutral: bool = True
    max_candidates: int | None = None
    max_scored: int | None = None

    def __post_init__(self) -> None:
        for field, known in (("strategy", STRATEGIES), ("criterion", CRITERIA)):
            if getattr(self, field) not in known:
                raise UserError(
                    f"{field}={getattr(self, field)!r}: choose one of {', '.join(known)}"
                )
        for field in ("population_size", "num_scores", "max_candidates", "max_scored"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"{field}={value} must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative")
        if not 0 < self.tournament_fraction <= 1:
            raise UserError(
                f"tournament_fraction={self.tournament_fraction} must lie above 0 and not above 1: "
                "it is a share of the population, e.g. 0.05"
            )
        if self.max_candidates is None and self.max_scored is None:
            raise UserError("give max_candidates or max_scored: a search needs an end")

    @property
    def tournament_size(self) -> int:
        """Members that compete, once the population is full."""
        return min(
            self.population_size, max(2, round(self.tournament_fraction * self.population_size))
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A graph to evaluate.

    Attributes:
      id: 0, 1, 2, ... in the order of `ask`.
      graph: with its unused nodes.
      parent: id of the candidate it is a mutation of; None for a random graph.
    """

    id: int
    graph: Graph
    parent: int | None = None


@dataclasses.dataclass(frozen=True)
class Member:
    """A candidate with its scores, higher being better."""

    id: int
    graph: Graph
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The average criterion."""
        return math.fsum(self.scores) / len(self.scores)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a candidate: scores, or the reason of its rejection."""

    id: int
    scores: tuple[float, ...] | None = None
    rejected: str | None = None


class Search:
    """A running search.

    Attributes:
      config: how it proposes candidates.
      space: what it draws them from.
      population: the living members, oldest first; empty in random search.
      scored: everything that was scored, in the order of the results.
      rejections: how many candidates were rejected, by reason.
    """

    def __init__(self, config: SearchConfig, space: SearchSpace) -> None:
        self.config = config
        self.space = space
        self.population: deque[Member] = deque(maxlen=config.population_size)
        self.scored: list[Member] = []
        self.rejections: Counter[str] = Counter()
        self._pending: dict[int, Candidate] = {}
        self._num_asked = 0

    @property
    def num_asked(self) -> int:
        """Candidates proposed."""
        return self._num_asked

    @property
    def num_scored(self) -> int:
        """Candidates with scores."""
        return len(self.scored)

    @property
    def pending(self) -> tuple[Candidate, ...]:
        """Candidates without result, oldest first: what a resumed search evaluates."""
        return tuple(self._pending.values())

    @property
    def best(self) -> Member:
        """The best mean score; the first of equals.

        Raises:
          UserError: nothing has been scored.
        """
        if not self.scored:
            raise UserError("the search has scored no candidate yet, so there is no best one")
        return max(self.scored, key=lambda member: member.mean)

    def front(self) -> list[Member]:
        """The Pareto front of everything scored, in the order of the results."""
        return [self.scored[i] for i in pareto_front([member.scores for member in self.scored])]

    def ask(self) -> Candidate | None:
        """The next candidate; None once the budget is used up."""
        limits = (
            (self._num_asked, self.config.max_candidates),
            (self.num_scored, self.config.max_scored),
        )
        if any(limit is not None and count >= limit for count, limit in limits):
            return None
        # A generator for each candidate: none of them depends on how many draws another took.
        rng = np.random.default_rng([self.config.seed, self._num_asked])
        if self.config.strategy == "random" or len(self.population) < self.config.population_size:
            candidate = Candidate(self._num_asked, random_graph(rng, self.space))
        else:
            parent = self._tournament(rng)
            child = (mutate_layer if self.config.skip_neutral else mutate)(
                parent.graph, rng, self.space
            )
            candidate = Candidate(self._num_asked, child, parent.id)
        self._num_asked += 1
        self._pending[candidate.id] = candidate
        return candidate

    def tell(
        self, id: int, *, scores: Sequence[float] | None = None, rejected: str | None = None
    ) -> None:
        """Takes the result of a candidate: its scores or the reason of its rejection.

        Raises:
          UserError: the candidate does not wait for a result, or the result is not one of the two,
            or the scores are not `num_scores` finite numbers.
        """
        if id not in self._pending:
            raise UserError(f"candidate {id} waits for no result: it was told, or never asked for")
        if (scores is None) == (rejected is None):
            raise UserError(f"candidate {id}: give its scores or the reason of its rejection")
        if scores is None:
            self._pending.pop(id)
            self.rejections[str(rejected)] += 1
            return
        values = tuple(map(float, scores))
        if len(values) != self.config.num_scores or not all(map(math.isfinite, values)):
            raise UserError(
                f"candidate {id}: scores {values} must be {self.config.num_scores} finite numbers"
            )
        member = Member(id, self._pending.pop(id).graph, values)
        self.scored.append(member)
        if self.config.strategy == "evolution":
            self.population.append(member)  # a full one drops its oldest member

    def _tournament(self, rng: np.random.Generator) -> Member:
        places = rng.choice(len(self.population), size=self.config.tournament_size, replace=False)
        members = [self.population[i] for i in places]
        if self.config.criterion == "average":
            return max(members, key=lambda member: member.mean)
        front = pareto_front([member.scores for member in members])
        return members[front[rng.integers(len(front))]]


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows that no other row dominates; equal rows do not dominate each other.

    A row dominates another if it is nowhere smaller and somewhere larger.

    >>> pareto_front([[1, 5], [3, 3], [2, 2], [3, 3]])
    [0, 1, 3]
    """
    if not len(scores):
        return []
    values = np.asarray(scores, dtype=float)
    front: list[int] = []
    # In descending lexicographic order a row can be dominated by rows before it alone.
    for i in np.lexsort(values.T[::-1])[::-1]:
        others = values[front]
        if not ((others >= values[i]).all(axis=1) & (others > values[i]).any(axis=1)).any():
            front.append(int(i))
    return sorted(front)


def replay(
    config: SearchConfig, space: SearchSpace, events: Iterable[Candidate | Result]
) -> Search:
    """The search after a record: of a candidate for each `ask` and a result for each `tell`.

    Args:
      config: of the search; its budget may have changed.
      space: of the search.
      events: in the order in which they happened.

    Returns:
      The search, ready to go on; candidates without result are `pending`.

    Raises:
      UserError: the search would have proposed another candidate, so that the record is that of
        another config, or is incomplete.
    """
    search = Search(config, space)
    for event in events:
        if isinstance(event, Candidate):
            candidate = search.ask()
            if candidate != event:
                raise UserError(
                    f"the record has the candidate {event.id}, {event.graph}, where this search "
                    f"proposes {candidate.graph if candidate else 'none: its budget is used up'}; "
                    "it belongs to another config or version, or is incomplete"
                )
        else:
            search.tell(event.id, scores=event.scores, rejected=event.rejected)
    return search
