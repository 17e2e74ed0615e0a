"""Rates from records by hand, and a run that is interrupted and goes on."""

import csv

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs import LIBRARY
from evonorm_jax.graphs.canonical import canonical_hash
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.engine.protocol import AbortRule, ProxyProtocol
from evonorm_jax.search.engine.verdicts import Evaluation
from evonorm_jax.search.evolution.space import SearchSpace
from evonorm_jax.search.run import false_rejects
from evonorm_jax.search.run.false_rejects import KNOWN, SURVIVES, Rate


def test_bound_by_hand():
    """Wilson with z = 1.96: 0 of 39 gives z^2 / (n + z^2)."""
    assert Rate(0, 39).upper == pytest.approx(1.96**2 / (39 + 1.96**2))
    assert Rate(5, 10).upper == pytest.approx(0.7634, abs=1e-4)
    assert Rate(0, 0).upper == 1


def record(kind, reason, losses=(), accuracy=None, function=""):
    quality = {} if accuracy is None else {"net": accuracy}
    details = {"losses": {"net": list(losses)}, "quality": quality, "function": function}
    return {"filter": kind, "graph": "", "reason": reason, "details": details}


RECORDS = [
    record("dead", None),
    record("dead", "low_accuracy"),
    record("blow_up", "nonfinite_loss"),
    record(SURVIVES, None, [2.4, 2.1], 40.0),
    record(SURVIVES, None, [2.3, 2.25], 30.0),
    record(SURVIVES, "low_accuracy", [2.4, 2.31], 10.0),
    record(SURVIVES, "low_accuracy", [2.3, 2.2], 15.0),
    record(SURVIVES, "nonfinite_loss", [float("nan")]),  # no rule would have met it
]


def test_rates_of_filters():
    rates = false_rejects.filter_rates(RECORDS)
    assert rates == {"dead": Rate(1, 2), "blow_up": Rate(0, 1), SURVIVES: Rate(2, 5)}


def test_a_duplicate_is_judged_by_the_first_of_its_function():
    records = [
        record(SURVIVES, None, function="good"),
        record(SURVIVES, "low_accuracy", function="bad"),
        record("duplicate", None, function="good"),
        record("duplicate", "low_accuracy", function="good"),
        record("duplicate", None, function="bad"),
        record("duplicate", None, function="not trained"),
    ]
    rates = false_rejects.filter_rates(records)
    assert rates == {"duplicate": Rate(1, 3), SURVIVES: Rate(1, 2)}


@pytest.mark.parametrize(
    ("rule", "wrong", "caught"),
    [
        (AbortRule(20, 10, 2.3), Rate(0, 1), Rate(1, 2)),
        (AbortRule(20, 10, 2.22), Rate(1, 2), Rate(1, 2)),
        (AbortRule(20, 20, 2.26), Rate(1, 2), Rate(1, 2)),
    ],
)
def test_rates_of_abort_rules(rule, wrong, caught):
    assert false_rejects.abort_rate(RECORDS, rule, 20.0) == (wrong, caught)


def test_rules_between_the_means():
    with pytest.raises(ValueError, match="multiples of 10"):
        false_rejects.abort_rate(RECORDS, AbortRule(15, 5, 2.3), 20.0)


def test_table_says_how_many():
    anchors = (Anchor("resnet50_cifar", name="net"),)
    protocol = ProxyProtocol(anchors, abort_rules=(AbortRule(20, 10, 2.3),))
    known = record(KNOWN, "low_accuracy", [2.4, 2.1], 12.5)
    known["graph"] = LIBRARY["bn_relu"].to_text()
    lines = false_rejects.as_markdown([*RECORDS, known], protocol).splitlines()
    assert lines[0].startswith("9 candidates trained for 100 steps on net, ")
    assert "| blow_up | 0 of 1, at most 79.3 % |" in lines
    assert "| dead | 1 of 2, at most 90.5 % |" in lines
    assert lines.index("| blow_up | 0 of 1, at most 79.3 % |") == 4
    rule = "| mean loss of 10 steps above 2.3 at step 20 | 0 of 1, at most 79.3 % | 1 of 3 |"
    assert rule in lines
    assert "Of 5 that no filter rejects, 2 reached it." in lines
    assert lines[-2:] == ["| bn_relu | 12.5 % |", "| random | no_spatial_dependence |"]


def test_csv_holds_what_the_rates_are_made_from():
    anchors = (Anchor("resnet50_cifar", name="net"),)
    protocol = ProxyProtocol(anchors, abort_rules=(AbortRule(20, 10, 2.3),))
    rows = list(csv.reader(false_rejects.as_csv(RECORDS, protocol).splitlines()))
    assert rows[0] == ["filter", "verdict", "net accuracy", "net loss 11-20", "graph"]
    assert rows[2] == ["dead", "low_accuracy", "", "", ""]
    assert rows[4] == [SURVIVES, "passed", "40.0", "2.1", ""]
    assert len(rows) == 1 + len(RECORDS)


def test_candidates_are_distinct_and_meet_their_filter():
    found = list(false_rejects.candidates(0, 24, SearchSpace(), num_drawn=300))
    assert len({canonical_hash(graph) for _, graph in found}) == len(found)
    firsts = [(reason, graph) for reason, graph in found if reason != "duplicate"]
    assert len({functional_hash(graph) for _, graph in firsts}) == len(firsts) < len(found)
    for reason, graph in firsts:
        rejection = reject(graph)
        assert reason == (SURVIVES if rejection is None else rejection.reason)
    survivors = {functional_hash(graph) for reason, graph in firsts if reason == SURVIVES}
    for reason, graph in found:
        if reason == "duplicate":
            assert reject(graph) is None
            assert functional_hash(graph) in survivors
    counts = [sum(kind == reason for kind, _ in found) for reason in {kind for kind, _ in found}]
    assert max(counts) == 24
    assert len(counts) >= 6


class Recorder:
    """An engine that counts."""

    def __init__(self, **fields):
        self.protocol = ProxyProtocol(**fields)
        self.graphs = []

    def evaluate(self, graph, seed):
        self.graphs.append(graph)
        return Evaluation("quality", "low_accuracy", details={"quality": {}, "losses": {}})


def run(engine, path, limit=None, seed=1):
    return list(
        false_rejects.record_candidates(
            engine,
            path,
            dataset={"name": "digits"},
            seed=seed,
            num_each=2,
            num_drawn=60,
            max_candidates=limit,
        )
    )


def test_goes_on_where_it_was_interrupted(tmp_path):
    path = tmp_path / "records.jsonl"
    whole, first, second = Recorder(), Recorder(), Recorder()

    run(whole, tmp_path / "whole.jsonl")
    run(first, path, 3)
    with path.open("a") as file:
        file.write('{"filter": "dea')  # killed while writing
    run(second, path)
    assert first.graphs + second.graphs == whole.graphs
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    graphs = [record["graph"] for record in false_rejects.read_records(path)]
    assert graphs == [str(graph) for graph in whole.graphs]


def test_killed_while_beginning(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"protocol": {"anch')
    run(Recorder(), path, 1)
    assert len(false_rejects.read_records(path)) == 1


def test_records_of_something_else_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    run(Recorder(), path, 1)
    before = path.read_bytes()
    for engine, seed in ((Recorder(), 2), (Recorder(batch_size=64), 1)):
        with pytest.raises(UserError, match="another protocol, data set or seed"):
            run(engine, path, seed=seed)
    assert path.read_bytes() == before


def test_nothing_ends_a_run_that_is_to_be_judged():
    protocol = false_rejects.without_filters(ProxyProtocol())
    assert protocol.filters is None
    assert protocol.abort_rules == ()
    assert protocol.num_steps == protocol.quality_steps == 100
