"""Candidates that filters reject, drawn and trained; a run that is interrupted and goes on."""

import re

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical_hash
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.space import SearchSpace
from evonorm_jax.search.run import false_rejects
from evonorm_jax.search.run.false_rejects import SURVIVES
from evonorm_jax.search.run.records import read_records


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
        details = {"function": "f", "quality": {"tiny": 9.5}, "losses": {"tiny": [2.3, 2.2]}}
        return Verdict("quality", "low_accuracy", details=details)


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
    graphs = [record["graph"] for record in read_records(path, false_rejects.broken_record_rule)]
    assert graphs == [str(graph) for graph in whole.graphs]


def test_killed_while_beginning(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"protocol": {"anch')
    run(Recorder(), path, 1)
    assert len(read_records(path, false_rejects.broken_record_rule)) == 1


def test_records_of_something_else_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    run(Recorder(), path, 1)
    before = path.read_bytes()
    for engine, seed in ((Recorder(), 2), (Recorder(batch_size=64), 1)):
        with pytest.raises(UserError, match="another protocol, data set or seed"):
            run(engine, path, seed=seed)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A file with two records."""
    path = tmp_path_factory.mktemp("begun") / "records.jsonl"
    run(Recorder(), path, 2)
    return path


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("{", "[", "a JSON object"),
        ('{"filter"', '7, {"filter"', "a JSON object"),
        ('"known"', '"unknown"', "'filter' is one of survives, known, no_path_from_x"),
        ('"known"', "[]", "'filter' is one of"),
        ('"graph": "', '"graph": "n4 = nothing(x); ', "'graph' is the text of a graph"),
        ('"graph": ', '"graph": 3, "name": ', "'graph' is the text of a graph"),
        ('"reason": "low_accuracy"', '"reason": 1', "'reason' is a text, or null"),
        ('"commit": ', '"comment": ', "'commit' is a text"),
        ('"details": {', '"details": [], "more": {', "'details' is an object"),
        ('"function": "f", ', "", "'details' is an object with 'function'"),
        ("9.5", '"9.5"', "'quality' has percentages"),
        ("2.2", "null", "have numbers as 'losses'"),
        ('"losses": {"tiny"', '"losses": {"other"', "have numbers as 'losses'"),
        ("2.2", "[" * 100_000, "a JSON object"),
        ("{", "\xff", "a JSON object"),
    ],
)
def test_a_damaged_record_is_named_and_nothing_is_written(begun, tmp_path, old, new, rule):
    first, second, third = begun.read_bytes().splitlines(keepends=True)
    assert old.encode() in second
    path = tmp_path / "records.jsonl"
    damaged = second.replace(old.encode(), new.encode("latin-1"), 1)
    path.write_bytes(first + damaged + third + b'{"torn')
    before = path.read_bytes()
    message = f"{re.escape(str(path))} is damaged: line 2 is no record, .*{rule}"
    engine = Recorder()
    with pytest.raises(UserError, match=message):
        run(engine, path)
    with pytest.raises(UserError, match=message):
        read_records(path, false_rejects.broken_record_rule)
    assert engine.graphs == []
    assert path.read_bytes() == before


@pytest.mark.hostile
def test_a_damaged_file_of_records_is_named(begun, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\xff" + begun.read_bytes())
    with pytest.raises(UserError, match="or its first line is damaged"):
        run(Recorder(), path)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        run(Recorder(), tmp_path)


def test_nothing_ends_a_run_that_is_to_be_judged():
    protocol = false_rejects.without_filters(ProxyProtocol())
    assert protocol.filters is None
    assert protocol.abort_rules == ()
    assert protocol.num_steps == protocol.quality_steps == 100
