"""Regularized evolution with tournaments, as a state machine without any training in it.

`ask` proposes a candidate, `tell` takes its scores or the reason why it was rejected, in whatever
order the evaluations end. Everything random comes from the seed and the number of the candidate,
so the same results in the same order give the same search, and `replay` rebuilds its state from
them.

Evolution is that of Real et al. (AAAI 2019): a population of the last P candidates that were
scored. A random subset of it competes; the winner's mutated copy is evaluated and joins, and the
oldest member leaves, good or not. Random search proposes random graphs to the end; with rejection
before training it is the paper's baseline.

>>> from evonorm_jax.search.evolution.space import SearchSpace
>>> search = Search(SearchConfig(population_size=4, max_candidates=9, num_scores=1), SearchSpace())
>>> while (candidate := search.ask()) is not None:
...     search.tell(candidate.id, scores=[len(candidate.graph.effective) / 14])
>>> search.num_scored, search.best.id in [member.id for member in search.scored]
(9, True)
"""

import dataclasses
import math
import operator
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import check_fields, flag, number, one_of, optional, seed, whole
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.evolution.mutation import mutate, mutate_layer
from evonorm_jax.search.evolution.pareto import pareto_front
from evonorm_jax.search.evolution.space import SearchSpace, random_graph

STRATEGIES = ("evolution", "random")
CRITERIA = ("pareto", "average")

#: The rules of the fields of a search; `seed` stands beside `search` in a config file.
FIELDS = {
    "strategy": one_of(STRATEGIES),
    "seed": seed(),
    "population_size": whole(1, 10**6),
    "tournament_fraction": number(above=0, at_most=1),
    "criterion": one_of(CRITERIA),
    "num_scores": whole(1, 1000),
    "skip_neutral": flag(),
    "max_candidates": optional(whole(1)),
    "max_scored": optional(whole(1)),
}


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How a search proposes candidates. The paper gives no numbers for these: they are ours.

    Attributes:
      strategy: "evolution", or "random" for random search.
      seed: The seed of everything that is drawn.
      population_size: The number of living members; as many random candidates are scored before the
        first tournament.
      tournament_fraction: The share of the population that competes, at least two members.
      criterion: Who wins: "pareto", a random member of the tournament's Pareto front (the paper's
        choice), or "average", the one with the best mean score.
      num_scores: The number of scores of a candidate, one for each anchor network.
      skip_neutral: Whether to mutate until the layer changes, rather than spend a candidate on a
        graph that differs in unused nodes only.
      max_candidates: The search ends after proposing so many; None for no such limit.
      max_scored: The search ends after scoring so many; None for no such limit.
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
        check_fields(vars(self), FIELDS, "search")
        if self.max_candidates is None and self.max_scored is None:
            raise UserError("give max_candidates or max_scored: a search needs an end")

    @property
    def tournament_size(self) -> int:
        """The number of members that compete, once the population is full."""
        return min(
            self.population_size, max(2, round(self.tournament_fraction * self.population_size))
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A graph to evaluate.

    Attributes:
      id: 0, 1, 2, ... in the order of `ask`.
      graph: The graph with its unused nodes.
      parent: The id of the candidate that it is a mutation of; None for a random graph.
    """

    id: int
    graph: Graph
    parent: int | None = None


@dataclasses.dataclass(frozen=True)
class Member:
    """A scored candidate.

    Attributes:
      id: The id of the candidate.
      graph: The graph with its unused nodes.
      scores: One score for each anchor network; higher is better.
    """

    id: int
    graph: Graph
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return math.fsum(self.scores) / len(self.scores)


class Score(NamedTuple):
    """What a scored candidate has reached.

    Attributes:
      id: The id of the candidate.
      scores: One score for each anchor network; higher is better.
    """

    id: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return math.fsum(self.scores) / len(self.scores)


@dataclasses.dataclass(frozen=True)
class CandidateResult:
    """What became of a candidate.

    Attributes:
      id: The id of the candidate.
      scores: Its scores; None where it was rejected.
      rejected: The reason of its rejection; None where it has scores.
    """

    id: int
    scores: tuple[float, ...] | None = None
    rejected: str | None = None


class Search:
    """The state of a search: the population with its graphs, and the numbers of all others.

    A candidate that was scored and has left the population takes 40 bytes.

    Attributes:
      config: How it proposes candidates.
      space: What it draws them from.
      population: The living members, oldest first; empty in random search.
      rejections: How many candidates were rejected, by reason.
    """

    def __init__(self, config: SearchConfig, space: SearchSpace) -> None:
        self.config = config
        self.space = space
        self.population: deque[Member] = deque(maxlen=config.population_size)
        self.rejections: Counter[str] = Counter()
        self._pending: dict[int, Candidate] = {}
        self._num_asked = 0
        self._scored_ids, self._scores = array("q"), array("d")
        self._best: Member | None = None
        self._best_mean = -math.inf
        # Of the Pareto front, by scores: the places of those who have them, in `scored`.
        self._front: dict[tuple[float, ...], list[int]] = {}

    @property
    def num_asked(self) -> int:
        """The number of candidates proposed."""
        return self._num_asked

    @property
    def num_scored(self) -> int:
        """The number of candidates with scores."""
        return len(self._scored_ids)

    @property
    def scored(self) -> list[Score]:
        """Every scored candidate, in the order of the results."""
        values = iter(self._scores)
        rows = zip(*[values] * self.config.num_scores, strict=True)
        return [Score(id, row) for id, row in zip(self._scored_ids, rows, strict=True)]

    @property
    def pending(self) -> tuple[Candidate, ...]:
        """The candidates without a result, oldest first: what a resumed search evaluates."""
        return tuple(self._pending.values())

    @property
    def best(self) -> Member:
        """The member with the best mean score, the first of equals.

        Raises:
          UserError: Nothing has been scored.
        """
        if self._best is None:
            raise UserError("the search has scored no candidate yet, so there is no best one")
        return self._best

    def front(self) -> list[Score]:
        """Returns the Pareto front of all scored candidates, in the order of the results."""
        places = sorted(place for places in self._front.values() for place in places)
        scores = {place: values for values, places in self._front.items() for place in places}
        return [Score(self._scored_ids[place], scores[place]) for place in places]

    def ask(self) -> Candidate | None:
        """Proposes the next candidate; returns None once the budget is used up."""
        limits = (
            (self._num_asked, self.config.max_candidates),
            (self.num_scored, self.config.max_scored),
        )
        if any(limit is not None and count >= limit for count, limit in limits):
            return None
        candidate = self._propose()
        self.record(candidate)
        return candidate

    def _propose(self) -> Candidate:
        # Each candidate has a generator of its own, so none depends on how often another drew.
        rng = np.random.default_rng([self.config.seed, self._num_asked])
        if self.config.strategy == "random" or len(self.population) < self.config.population_size:
            return Candidate(self._num_asked, random_graph(rng, self.space))
        parent = self._tournament(rng)
        child = (mutate_layer if self.config.skip_neutral else mutate)(
            parent.graph, rng, self.space
        )
        return Candidate(self._num_asked, child, parent.id)

    def record(self, candidate: Candidate) -> None:
        """Takes a candidate as the next one that was proposed.

        Raises:
          UserError: Its number is that of another one.
        """
        if candidate.id != self._num_asked:
            raise UserError(f"the record has the candidate {candidate.id}, not {self._num_asked}")
        self._num_asked += 1
        self._pending[candidate.id] = candidate

    def tell(
        self, id: int, *, scores: Sequence[float] | None = None, rejected: str | None = None
    ) -> None:
        """Takes the result of a candidate: its scores or the reason of its rejection.

        Raises:
          UserError: The candidate does not wait for a result, or the result is not one of the
            two, or the scores are not `num_scores` finite numbers.
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
        self._scored_ids.append(id)
        self._scores.extend(values)
        if (mean := member.mean) > self._best_mean:
            self._best, self._best_mean = member, mean
        self._join_front(values)
        if self.config.strategy == "evolution":
            self.population.append(member)  # a full one drops its oldest member

    def _join_front(self, scores: tuple[float, ...]) -> None:
        """Puts the newest scores into the Pareto front, unless others there dominate them."""
        place = self.num_scored - 1
        if scores in self._front:
            self._front[scores].append(place)
        elif not any(all(map(operator.ge, other, scores)) for other in self._front):
            for other in [o for o in self._front if all(map(operator.ge, scores, o))]:
                del self._front[other]
            self._front[scores] = [place]

    def _tournament(self, rng: np.random.Generator) -> Member:
        places = rng.choice(len(self.population), size=self.config.tournament_size, replace=False)
        members = [self.population[i] for i in places]
        if self.config.criterion == "average":
            return max(members, key=lambda member: member.mean)
        front = pareto_front([member.scores for member in members])
        return members[front[rng.integers(len(front))]]


def replay(
    config: SearchConfig,
    space: SearchSpace,
    events: Iterable[Candidate | CandidateResult],
    check_every: int = 1,
) -> Search:
    """Rebuilds a search from its record.

    Args:
      config: The config of the search; its budget may have changed.
      space: The space of the search.
      events: A candidate for each `ask` and a result for each `tell`, in the order in which they
        happened.
      check_every: Only candidates whose number is a multiple of it are proposed again, to be
        compared with the record; the others are taken from there.

    Returns:
      The search, ready to go on; candidates without a result are `pending`.

    Raises:
      UserError: The search would have proposed another candidate, so that the record belongs to
        another config or is incomplete.
    """
    search = Search(config, space)
    for event in events:
        if isinstance(event, Candidate) and event.id % check_every:
            search.record(event)
        elif isinstance(event, Candidate):
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
