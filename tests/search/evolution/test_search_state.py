"""The search as a state machine: who wins, who ages, what repeats, what is refused."""

import dataclasses

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.evolution.pareto import pareto_front
from evonorm_jax.search.evolution.search_state import (
    Candidate,
    CandidateResult,
    Search,
    SearchConfig,
    replay,
)
from evonorm_jax.search.evolution.space import SearchSpace

SPACE = SearchSpace()
CONFIG = SearchConfig(population_size=10, tournament_fraction=0.3, num_scores=2, max_candidates=60)


def score(graph):
    """A function of the graph that evolution can climb: how many of its nodes are used."""
    used = len(graph.effective)
    return used / 14, (used + len({node.primitive for node in graph.nodes})) / 24


def run(config, space=SPACE, stop=None):
    """The events of a search whose every fifth candidate is rejected."""
    search, events = Search(config, space), []
    while (candidate := search.ask()) is not None and len(events) != stop:
        events.append(candidate)
        if candidate.id % 5 == 4:
            result = CandidateResult(candidate.id, rejected="constant")
        else:
            result = CandidateResult(candidate.id, scores=score(candidate.graph))
        search.tell(result.id, scores=result.scores, rejected=result.rejected)
        events.append(result)
    return search, events


def test_a_whole_search():
    search, events = run(CONFIG)
    candidates = [event for event in events if isinstance(event, Candidate)]
    assert [candidate.id for candidate in candidates] == list(range(60))
    assert search.num_asked == 60
    assert search.num_scored == 48
    assert search.rejections == {"constant": 12}
    # Twelve asked, ten scored: the first tournament. Before it every graph is random.
    assert all((candidate.parent is None) == (candidate.id < 12) for candidate in candidates)
    assert [member.id for member in search.population] == [
        member.id for member in search.scored[-10:]
    ]
    by_id = {candidate.id: candidate.graph for candidate in candidates}
    for child in candidates[12:]:
        assert SPACE.contains(child.graph)
        assert canonical(child.graph) != canonical(by_id[child.parent])
    assert search.ask() is None


def test_parents_are_alive():
    """The parent is one of the last ten that were scored before the question."""
    search = Search(CONFIG, SPACE)
    while True:
        alive = [member.id for member in search.population]
        candidate = search.ask()
        if candidate is None:
            break
        assert candidate.parent is None or candidate.parent in alive
        search.tell(candidate.id, scores=score(candidate.graph))
    assert alive == list(range(50, 60)), "the oldest have left, whatever their scores"


def test_evolution_climbs_further_than_random_search():
    config = dataclasses.replace(CONFIG, max_candidates=250)
    means = {}
    for strategy in ("evolution", "random"):
        bests = [
            run(dataclasses.replace(config, strategy=strategy, seed=seed))[0].best.mean
            for seed in range(3)
        ]
        means[strategy] = np.mean(bests)
    assert means["evolution"] > means["random"] + 0.05


def test_random_search_never_mutates():
    search, events = run(dataclasses.replace(CONFIG, strategy="random"))
    assert all(event.parent is None for event in events if isinstance(event, Candidate))
    assert not search.population
    assert search.num_scored == 48


def test_the_same_results_in_the_same_order_give_the_same_search():
    assert run(CONFIG)[1] == run(CONFIG)[1]
    other = run(dataclasses.replace(CONFIG, seed=1))[1]
    assert run(CONFIG)[1][0] != other[0]


def test_a_longer_budget_goes_on_as_the_shorter_did():
    longer = run(dataclasses.replace(CONFIG, max_candidates=80))[1]
    assert longer[:120] == run(CONFIG)[1]


def test_results_may_come_in_any_order():
    """Four workers that finish out of order: deterministic as well, and nothing is lost."""

    def workers():
        search, log = Search(CONFIG, SPACE), []
        while True:
            while len(search.pending) < 4 and (candidate := search.ask()) is not None:
                log.append(candidate)
            if not search.pending:
                return search, log
            chosen = search.pending[len(search.pending) * 7 // 10]
            search.tell(chosen.id, scores=score(chosen.graph))
            log.append(CandidateResult(chosen.id, scores=score(chosen.graph)))

    search, log = workers()
    assert log == workers()[1]
    assert sorted(member.id for member in search.scored) == list(range(60))
    assert [member.id for member in search.scored] != list(range(60))
    again = replay(CONFIG, SPACE, log)
    assert again.scored == search.scored


@pytest.mark.parametrize("check_every", [1, 7, 1000])
@pytest.mark.parametrize("stop", [0, 1, 20, 47, 90])
def test_replay_goes_on_where_the_record_ends(stop, check_every):
    _, events = run(CONFIG)
    search = replay(CONFIG, SPACE, events[:stop], check_every)
    if stop % 2:  # a candidate without its result
        (pending,) = search.pending
        assert pending == events[stop - 1]
        result = events[stop]
        search.tell(pending.id, scores=result.scores, rejected=result.rejected)
        stop += 1
    assert search.ask() == events[stop]


def test_replay_refuses_the_record_of_another_search():
    _, events = run(CONFIG)
    for other in (
        dataclasses.replace(CONFIG, seed=1),
        dataclasses.replace(CONFIG, population_size=5),
        dataclasses.replace(CONFIG, criterion="average"),
        dataclasses.replace(CONFIG, max_candidates=5),
    ):
        with pytest.raises(
            UserError, match=r"the record has the candidate \d+, n4 = .* belongs to"
        ):
            replay(other, SPACE, events)
    with pytest.raises(UserError, match="the record has the candidate 0"):
        replay(CONFIG, SearchSpace(num_nodes=9), events)
    with pytest.raises(UserError, match="the record has the candidate 1"):
        replay(CONFIG, SPACE, events[2:])


def test_replay_compares_as_many_candidates_as_it_is_told():
    _, events = run(CONFIG)
    places = {event.id: i for i, event in enumerate(events) if isinstance(event, Candidate)}
    foreign = dataclasses.replace(events[places[14]], graph=events[places[13]].graph)
    events[places[14]] = foreign
    for check_every in (1, 7):
        with pytest.raises(UserError, match="the record has the candidate 14, n4 = "):
            replay(CONFIG, SPACE, events[: places[15]], check_every)
    search = replay(CONFIG, SPACE, events[: places[15]], check_every=4)
    assert search.num_asked == 15
    with pytest.raises(UserError, match="the record has the candidate 3, not 2"):
        replay(CONFIG, SPACE, [events[places[i]] for i in (0, 1, 3)], check_every=100)


def members_of(search, rows):
    for row in rows:
        search.tell(search.ask().id, scores=row)


def test_tournaments_pick_by_their_criterion():
    rows = [[0.9, 0.1], [0.5, 0.6], [0.1, 0.9], [0.4, 0.4]]
    for criterion, expected in (("average", {1}), ("pareto", {0, 1, 2})):
        parents = set()
        for seed in range(30):
            config = SearchConfig(
                population_size=4,
                tournament_fraction=1.0,
                num_scores=2,
                seed=seed,
                criterion=criterion,
                max_candidates=9,
            )
            search = Search(config, SPACE)
            members_of(search, rows)
            parents.add(search.ask().parent)
        assert parents == expected


def test_tournament_sizes():
    for size, fraction, expected in ((100, 0.05, 5), (10, 0.05, 2), (1, 0.5, 1), (4, 1.0, 4)):
        config = SearchConfig(population_size=size, tournament_fraction=fraction, max_candidates=1)
        assert config.tournament_size == expected


def test_neutral_children_where_they_are_wanted():
    config = dataclasses.replace(CONFIG, skip_neutral=False, max_candidates=200)
    _, events = run(config)
    graphs = {event.id: event for event in events if isinstance(event, Candidate)}
    neutral = [
        child
        for child in graphs.values()
        if child.parent is not None
        and canonical(child.graph) == canonical(graphs[child.parent].graph)
    ]
    assert len(neutral) > 20


def test_limits():
    search, _ = run(dataclasses.replace(CONFIG, max_candidates=None, max_scored=9))
    assert search.num_scored == 9
    search, _ = run(dataclasses.replace(CONFIG, max_scored=9))
    assert search.num_scored == 9
    search = Search(dataclasses.replace(CONFIG, max_candidates=2), SPACE)
    assert search.ask() is not None
    assert search.ask() is not None
    assert search.ask() is None, "although nothing is scored yet"


def test_best_and_front():
    search = Search(dataclasses.replace(CONFIG, population_size=2), SPACE)
    with pytest.raises(UserError, match="no best one"):
        _ = search.best
    assert search.front() == []
    members_of(search, [[0.5, 0.5], [0.2, 0.9], [0.6, 0.4], [0.1, 0.1], [0.5, 0.5]])
    assert search.best.id == 1
    assert [member.id for member in search.front()] == [0, 1, 2, 4]
    assert search.best.scores == search.scored[1].scores == (0.2, 0.9)


def test_pareto_front_against_its_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 30):
        rows = rng.integers(0, 5, size=(size, 3))
        expected = [
            i
            for i, row in enumerate(rows)
            if not any((other >= row).all() and (other > row).any() for other in rows)
        ]
        assert pareto_front(rows.tolist()) == expected
    assert pareto_front([]) == []
    assert pareto_front([[1.0], [3.0], [2.0]]) == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "annealing"}, "strategy='annealing'; it must be evolution or random"),
        ({"criterion": "best"}, "criterion='best'; it must be pareto or average"),
        ({"seed": -1}, "seed=-1; it must be at least 0"),
        ({"population_size": 0}, "population_size=0; it must be at least 1"),
        ({"num_scores": 0}, "num_scores=0; it must be at least 1"),
        ({"max_candidates": 0}, "max_candidates=0; it must be at least 1"),
        ({"max_scored": -1}, "max_scored=-1; it must be at least 1"),
        ({"tournament_fraction": 0.0}, "tournament_fraction=0.0; it must be above 0 and at most 1"),
        ({"tournament_fraction": 1.5}, "tournament_fraction=1.5; it must be above 0"),
        ({"max_candidates": None}, "give max_candidates or max_scored"),
    ],
)
def test_bad_configs(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_bad_results():
    search = Search(CONFIG, SPACE)
    id = search.ask().id
    for scores in ([0.5], [0.5, 0.5, 0.5], [0.5, float("nan")], [0.5, float("inf")]):
        with pytest.raises(UserError, match="must be 2 finite numbers"):
            search.tell(id, scores=scores)
    for result in ({}, {"scores": [1, 1], "rejected": "constant"}):
        with pytest.raises(UserError, match="its scores or the reason of its rejection"):
            search.tell(id, **result)
    with pytest.raises(UserError, match="candidate 7 waits for no result"):
        search.tell(7, rejected="constant")
    search.tell(id, scores=[0.5, 0.5])
    with pytest.raises(UserError, match="candidate 0 waits for no result"):
        search.tell(id, scores=[0.5, 0.5])
    assert search.num_scored == 1


def test_the_s_space_stays_closed():
    space = SearchSpace(batch_moments=False)
    search, events = run(CONFIG, space)
    assert all(space.contains(event.graph) for event in events if isinstance(event, Candidate))
    assert isinstance(search.best.graph, Graph)
