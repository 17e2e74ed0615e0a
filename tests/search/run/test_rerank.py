"""The best of a search evaluated again: who is asked, who wins, and that nothing is done twice."""

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.rerank import RerankConfig, rerank, standings
from tests.search.run.fast_search import InlineExecutor, make_config

PROTOCOL = ProxyProtocol(num_steps=8000)
# Of candidates 0 ... 4 in the search; 2 was rejected.
SEARCH = [50.0, 80.0, None, 70.0, 60.0]
# Of candidate and seed at the larger budget: candidate 3 overtakes 1, and 4 fails.
LARGER = {(1, 0): 81.0, (1, 1): 85.0, (3, 0): 90.0, (3, 1): 88.0, (4, 0): 95.0, (4, 1): None}


def verdict(score):
    if score is None:
        return Verdict(stage="training", reason="nonfinite_loss")
    return Verdict(stage="scored", scores={"wide": score - 1, "deep": score + 1})


class Table(InlineExecutor):
    """Evaluates by looking up."""

    def __init__(self):
        super().__init__(self.look_up)
        self.asked = []

    def look_up(self, trial):
        self.asked.append(trial.id)
        return verdict(LARGER[trial.id])


class Counts:
    def __init__(self):
        self.seen = []

    def __call__(self, done, total):
        self.seen.append((done, total))


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path, make_config()) as ledger:
        for number, score in enumerate(SEARCH):
            graph = Graph.from_text("; ".join(f"n{4 + i} = tanh(x)" for i in range(number + 1)))
            candidate = Candidate(number, graph)
            ledger.add_candidate(candidate, seed=0, function=None, results_before=number)
            ledger.add_result(number, verdict(score), place=number)
        ledger.commit()
        yield ledger


def test_the_best_are_evaluated_again_and_the_winner_is_another_one(ledger):
    config = RerankConfig(PROTOCOL, num_candidates=3, num_winners=2, num_seeds=2)
    table, counts = Table(), Counts()
    assert rerank(config, ledger, table, counts, lambda: False)
    assert table.asked == [(1, 0), (3, 0), (4, 0), (1, 1), (3, 1), (4, 1)]
    assert counts.seen == [(i, 6) for i in range(7)]
    first, second, third = standings(ledger.contents(), 3)
    assert (first.entry.id, first.mean, first.scores) == (3, 89.0, {"wide": 88.0, "deep": 90.0})
    assert (second.entry.id, second.mean) == (1, 83.0)
    assert (third.entry.id, third.reason, third.scores) == (4, "nonfinite_loss", {})


def test_it_resumes_where_it_was_stopped(ledger):
    config = RerankConfig(PROTOCOL, num_candidates=3, num_seeds=2)
    table, looks = Table(), iter(range(3))
    assert not rerank(config, ledger, table, Counts(), lambda: next(looks, None) is None)
    again, counts = Table(), Counts()
    assert rerank(config, ledger, again, counts, lambda: False)
    assert table.asked + again.asked == [(1, 0), (3, 0), (4, 0), (1, 1), (3, 1), (4, 1)]
    assert len(table.asked) == 3
    assert counts.seen[0] == (3, 6)
    third = Table()
    assert rerank(config, ledger, third, Counts(), lambda: False)
    assert third.asked == []


def test_more_candidates_may_be_asked_later_but_by_no_other_protocol(ledger):
    assert rerank(RerankConfig(PROTOCOL, 1, 1), ledger, Table(), Counts(), lambda: False)
    table = Table()
    assert rerank(RerankConfig(PROTOCOL, 2, 1), ledger, table, Counts(), lambda: False)
    assert table.asked == [(3, 0)]
    other = RerankConfig(ProxyProtocol(num_steps=9000), 2, 1)
    with pytest.raises(UserError, match=r"rerank\.protocol\.num_steps: 8000 there, 9000 here"):
        rerank(other, ledger, table, Counts(), lambda: False)


def test_a_search_without_scores_has_nothing_to_rerank(tmp_path):
    ledger = Ledger(tmp_path, make_config())
    with ledger, pytest.raises(UserError, match="has scored no candidate yet"):
        rerank(RerankConfig(PROTOCOL), ledger, Table(), Counts(), lambda: False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"protocol": {"num_steps": 50}},
            "protocol.quality_steps=100 must be 1 to num",
        ),
        ({"protocol": {"steps": 50}}, "In rerank: protocol has no field 'steps'"),
        ({"num_seeds": 0}, r"rerank\.num_seeds=0; it must be at least 1"),
        ({"num_candidates": 2}, r"num_winners=3 must not be above rerank\.num_candidates=2"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        RerankConfig.from_config({"protocol": PROTOCOL.to_dict(), **fields})
