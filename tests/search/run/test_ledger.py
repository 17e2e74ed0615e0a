"""The ledger: what it keeps, whom it refuses, and that no accident harms it."""

import contextlib
import dataclasses
import hashlib
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import (
    Candidate,
    CandidateResult,
    Search,
    SearchConfig,
)
from evonorm_jax.search.evolution.space import SearchSpace
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_reader import read_ledger, search_events
from tests.search.run.fast_search import ANCHORS, evaluate

CONFIG = {"search": {"seed": 0, "population_size": 6}, "protocol": {"anchors": list(ANCHORS)}}
GRAPH = Graph.from_text("n4 = sigmoid(x); n5 = mul(x, n4)")
SCORED = Verdict(
    stage="scored", reason=None, scores={"wide": 71.25, "deep": 1 / 3}, seconds=2.5, steps=4000,
    details={"loss": [2.3, 1.1], "note": "fine; all of it"},
)  # fmt: skip
REJECTED = Verdict(
    stage="wide", reason="accuracy", scores={"wide": 12.5}, seconds=0.5, steps=100, details={}
)


def fill(ledger, count=3):
    """Candidates 0 ... count - 1, of which the last waits for its result."""
    for number in range(count):
        candidate = Candidate(number, GRAPH, parent=number - 1 if number else None)
        ledger.add_candidate(candidate, seed=7 * number, function="ab", results_before=number)
        if number < count - 1:
            ledger.add_result(number, REJECTED if number else SCORED, place=number)
        ledger.commit()


@contextlib.contextmanager
def file_size_limit(limit):
    """A quota, in effect: writes fail in the middle of a commit."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_added_is_read_again(tmp_path):
    with Ledger(tmp_path / "new" / "search", CONFIG, {"command": ["me"]}) as ledger:
        fill(ledger)
        ledger.add_reranked(0, 5, SCORED)
        ledger.set_rerank_config({"num_winners": 3})
        assert ledger.contents() == read_ledger(ledger.path)
    contents = read_ledger(tmp_path / "new" / "search")
    assert contents.config == CONFIG
    assert contents.rerank_config == {"num_winners": 3}
    first, second, third = contents.entries
    assert first.candidate == Candidate(0, GRAPH)
    assert first.verdict == SCORED
    assert (second.candidate.parent, second.verdict, second.seed) == (0, REJECTED, 7)
    assert (third.place, third.verdict, third.result_time) == (None, None, None)
    assert contents.reranked == {(0, 5): SCORED}
    assert [start["command"] for start in contents.starts] == [["me"]]
    assert contents.entries.best(5) == [first]
    assert first.mean == pytest.approx((71.25 + 1 / 3) / 2)


def test_entries_are_read_as_they_are_asked_for(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger, count=4)
        entries = ledger.contents().entries
        ledger.add_result(3, dataclasses.replace(SCORED, scores={"wide": 90, "deep": 9}), place=3)
        ledger.add_candidate(Candidate(4, GRAPH), seed=0, function=None, results_before=4)
        later = ledger.contents().entries
    # What came after the reading is not seen, though it stands in the file.
    assert (len(entries), entries[3].verdict, entries[-1].place) == (4, None, None)
    assert entries[1:3] == list(entries)[1:3]
    assert entries[0] == later[0]
    assert entries != later
    assert [entry.id for entry in later.best(5)] == [3, 0]
    assert [entry.id for entry in later.best(1, among=[0, 1, 4])] == [0]
    assert list(later.read([3, 1])) == [later[3], later[1]]
    with pytest.raises(IndexError):
        later[5]


def test_what_is_not_finite_is_null(tmp_path):
    """SQLite reads the columns as JSON, which has no NaN."""
    details = {"losses": {"wide": [2.5, math.nan, -math.inf]}, "gradient_norm": math.inf}
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        ledger.add_result(2, dataclasses.replace(REJECTED, details=details), place=2)
        ledger.commit()
    verdict = read_ledger(tmp_path).entries[2].verdict
    assert verdict.details == {"losses": {"wide": [2.5, None, None]}, "gradient_norm": None}
    with contextlib.closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as connection:
        query = "SELECT json_extract(details, '$.losses.wide[0]') FROM results WHERE place = 2"
        assert connection.execute(query).fetchone() == (2.5,)


def test_a_ledger_at_rest_is_one_file(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        assert (tmp_path / f"{LEDGER_FILE}-wal").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["driver.lock", LEDGER_FILE]


def test_what_was_not_committed_is_not_there(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        ledger.add_result(2, SCORED, place=2)
    assert read_ledger(tmp_path).entries[2].verdict is None


@pytest.mark.parametrize(("candidate", "place"), [(1, 2), (2, 1)])
def test_nothing_is_recorded_twice(tmp_path, candidate, place):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_result(candidate, SCORED, place=place)


def test_events_come_in_the_order_in_which_they_happened(tmp_path):
    """Two workers: three proposals, of which the second ends before the first."""
    with Ledger(tmp_path, CONFIG) as ledger:
        for number, known in ((0, 0), (1, 0), (2, 1)):
            candidate = Candidate(number, GRAPH)
            ledger.add_candidate(candidate, seed=0, function=None, results_before=known)
        ledger.add_result(1, SCORED, place=0)
        ledger.add_result(0, REJECTED, place=1)
        entries = ledger.contents().entries
    zero, one, two = (Candidate(number, GRAPH) for number in range(3))
    assert list(search_events(entries, ANCHORS)) == [
        zero,
        one,
        CandidateResult(1, scores=(71.25, 1 / 3)),
        two,
        CandidateResult(0, rejected="accuracy"),
    ]


def test_a_ledger_of_another_config_is_refused_and_left_alone(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
    before = digest(tmp_path / LEDGER_FILE)
    other = {**CONFIG, "search": {"seed": 1, "population_size": 6, "strategy": "random"}}
    with pytest.raises(UserError) as error:
        Ledger(tmp_path, other)
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [
        "  search.seed: 0 there, 1 here",
        "  search.strategy: '(absent)' there, 'random' here",
    ]
    assert digest(tmp_path / LEDGER_FILE) == before
    with Ledger(tmp_path, CONFIG) as ledger:  # the refusal has given the lock back
        assert len(ledger.contents().entries) == 3


def test_the_budget_and_the_place_of_the_data_may_change(tmp_path):
    config = {"search": {"max_candidates": 5}, "dataset": {"path": "a", "pad": 4}, "rerank": {}}
    with Ledger(tmp_path, config) as ledger:
        fill(ledger)
    config = {"search": {"max_candidates": 9}, "dataset": {"path": "b", "pad": 4}, "rerank": 1}
    Ledger(tmp_path, config).close()
    assert read_ledger(tmp_path).config["dataset"] == {"path": "b", "pad": 4}
    config["dataset"] = {"path": "b", "pad": 2}
    with pytest.raises(UserError, match=r"dataset\.pad: 4 there, 2 here"):
        Ledger(tmp_path, config)


def test_before_anything_is_trained_another_data_set_may_be_named(tmp_path):
    config = {"search": {"seed": 0}, "dataset": {"source": "tfds"}}
    with Ledger(tmp_path, config) as ledger:
        ledger.add_candidate(Candidate(0, GRAPH), seed=1, function=None, results_before=0)
        ledger.add_result(0, Verdict("filters", "constant"), place=0)
        ledger.commit()
    config["dataset"] = {"source": "npz"}
    with Ledger(tmp_path, config) as ledger:
        assert len(ledger.contents().entries) == 1
    assert read_ledger(tmp_path).config == config
    with pytest.raises(UserError, match=r"search\.seed: 0 there, 1 here"):
        Ledger(tmp_path, {**config, "search": {"seed": 1}})


def test_a_start_that_came_to_no_candidate_binds_nobody(tmp_path):
    Ledger(tmp_path, {"search": {"seed": 0}, "dataset": {"source": "tfds"}}).close()
    config = {"search": {"seed": 1}, "space": {"num_nodes": 3}}
    with Ledger(tmp_path, config) as ledger:
        assert len(ledger.contents().starts) == 2
    assert read_ledger(tmp_path).config == config


def test_the_rerank_config_is_checked_for_itself(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        ledger.set_rerank_config({"steps": 30})  # nothing comes of it
        ledger.set_rerank_config({"steps": 10, "seeds": (0, 1)})
        ledger.add_reranked(0, 0, SCORED)
        ledger.set_rerank_config({"steps": 10, "seeds": [0, 1]})
        with pytest.raises(UserError, match=r"rerank\.steps: 10 there, 20 here"):
            ledger.set_rerank_config({"steps": 20, "seeds": (0, 1)})


def test_a_second_driver_is_refused(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        with pytest.raises(UserError, match=rf"Another process .* process {os.getpid()} on "):
            Ledger(tmp_path, CONFIG)
        assert len(ledger.contents().entries) == 3
    Ledger(tmp_path, CONFIG).close()


def test_a_killed_driver_leaves_no_lock_and_all_that_was_committed(tmp_path):
    code = (
        "import os, sys; from tests.search.run import test_ledger as t;"
        "ledger = t.Ledger(sys.argv[1], t.CONFIG); t.fill(ledger);"
        "ledger.add_result(2, t.SCORED, place=2); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    entries = list(read_ledger(tmp_path).entries)
    assert [entry.place for entry in entries] == [0, 1, None]
    with Ledger(tmp_path, CONFIG) as ledger:
        assert ledger.contents().entries == entries
        ledger.add_result(2, SCORED, place=2)
        ledger.commit()
    assert read_ledger(tmp_path).entries[2].verdict == SCORED


def test_a_full_disk_is_one_message_and_no_harm(tmp_path):
    """SQLite reports its own limit of pages exactly as it reports a full disk."""
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        large = Verdict(
            stage="wide", reason="accuracy", scores={}, seconds=0.0, steps=0,
            details={"message": 100_000 * "long "},
        )  # fmt: skip
        with pytest.raises(UserError, match=r"the disk is full\. All .* is intact"):
            ledger.add_result(2, large, place=2)
    assert len(read_ledger(tmp_path).entries) == 3
    with Ledger(tmp_path, CONFIG) as ledger:
        check = ledger._connection.execute("PRAGMA integrity_check").fetchone()
        assert check == ("ok",)
        ledger.add_result(2, large, place=2)
        ledger.commit()
    assert read_ledger(tmp_path).entries[2].verdict == large


def test_a_file_that_may_not_grow_is_one_message_and_no_harm(tmp_path):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        details = {"message": 200_000 * "x"}
        with (  # noqa: PT012
            file_size_limit(150_000),
            pytest.raises(UserError, match=r"cannot be written: .* is intact"),
        ):
            ledger.add_result(2, Verdict("a", None, {}, 0.0, 0, details), place=2)
            ledger.commit()
    assert [entry.place for entry in read_ledger(tmp_path).entries] == [0, 1, None]


def test_other_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not empty .* thesis\.tex"):
        Ledger(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        Ledger(tmp_path / "thesis.tex", CONFIG)


def test_what_is_no_ledger_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"There is no ledger .*--workdir of experiments\.search"):
        read_ledger(tmp_path)
    path = tmp_path / LEDGER_FILE
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    for read in (read_ledger, lambda folder: Ledger(folder, CONFIG)):
        with pytest.raises(UserError, match="is no ledger of a search: file is not a database"):
            read(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE about (key TEXT, value TEXT)")
        connection.execute("INSERT INTO about VALUES ('format', 'evonorm_jax ledger 99')")
    connection.close()
    with pytest.raises(UserError, match="ledger 99'; this version reads 'evonorm_jax ledger 1'"):
        read_ledger(tmp_path)


def test_a_creation_that_was_cut_short_is_done_again(tmp_path):
    for folder in (tmp_path / "no byte", tmp_path / "no table"):
        folder.mkdir()
        (folder / LEDGER_FILE).touch()
    # A kill between the two: the header is written before the tables are committed.
    code = (
        "import os, sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode=WAL')"
    )
    code += "; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, folder / LEDGER_FILE], check=False)
    assert (folder / LEDGER_FILE).stat().st_size > 0
    for folder in tmp_path.iterdir():
        with Ledger(folder, CONFIG) as ledger:
            fill(ledger)
        assert len(read_ledger(folder).entries) == 3


@pytest.mark.parametrize("limit", [5_000, 20_000, 33_000])
def test_a_disk_that_is_full_at_the_first_start(tmp_path, limit):
    with file_size_limit(limit), pytest.raises(UserError, match="cannot be written"):
        Ledger(tmp_path, CONFIG)
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
    assert len(read_ledger(tmp_path).entries) == 3


def test_a_search_can_be_replayed_from_its_ledger(tmp_path):
    config = SearchConfig(population_size=3, max_candidates=40, num_scores=2)
    search = Search(config, SearchSpace())
    with Ledger(tmp_path, CONFIG) as ledger:
        while (candidate := search.ask()) is not None:
            place = search.num_asked - 1
            ledger.add_candidate(candidate, seed=place, function=None, results_before=place)
            verdict = evaluate(candidate.graph, place)
            ledger.add_result(candidate.id, verdict, place=place)
            rejected = verdict.reason
            scores = None if rejected else [verdict.scores[name] for name in ANCHORS]
            search.tell(candidate.id, scores=scores, rejected=rejected)
        ledger.commit()
    events = list(search_events(read_ledger(tmp_path).entries, ANCHORS))
    assert len(events) == 80
    assert [e.scores for e in events if isinstance(e, CandidateResult) and e.scores] == [
        member.scores for member in search.scored
    ]
