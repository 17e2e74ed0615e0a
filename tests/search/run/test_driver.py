"""A search and its ledger in step: the same again, and nothing lost or repeated by kills."""

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine import filters
from evonorm_jax.search.engine.filters import reject
from evonorm_jax.search.engine.verdicts import Reason
from evonorm_jax.search.run import driver
from evonorm_jax.search.run.driver import Driver, SearchSettings, evaluation_seed, resume_search
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import read_ledger
from evonorm_jax.search.run.stop_request import StopRequest
from tests.search.run import fast_search
from tests.search.run.fast_search import InlineExecutor, evaluate, make_config, show_nothing

ROOT = Path(__file__).resolve().parents[3]
NUM_CANDIDATES = 400


def history(workdir):
    """All that a ledger says but the times."""
    entries = list(read_ledger(workdir).entries)
    return [
        dataclasses.replace(
            entry,
            time=0.0,
            result_time=None,
            verdict=entry.verdict and dataclasses.replace(entry.verdict, seconds=0.0),
        )
        for entry in entries
    ]


def test_the_same_seed_gives_the_same_search(tmp_path):
    searches = {"one": {"num_workers": 1}, "two": {}, "three": {"seed": 1}}
    for name, fields in searches.items():
        assert fast_search.run(tmp_path / name, **fields)
    one, two, three = (history(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one != three
    assert [entry.id for entry in one] == list(range(150))
    assert [entry.place for entry in one] == list(range(150))
    assert any(entry.candidate.parent is not None for entry in one)


def test_resumed_searches_equal_the_uninterrupted_one(tmp_path, monkeypatch):
    """Stopped after every few looks, and with a budget that grows; every 40th is compared."""
    monkeypatch.setattr(driver, "NUM_CHECKED", 10)
    assert fast_search.run(tmp_path / "whole", max_candidates=NUM_CANDIDATES)
    for budget in (100, 250, NUM_CANDIDATES):
        finished, looks = False, 0
        while not finished:
            looks += 40
            left = iter(range(looks))
            finished = fast_search.run(
                tmp_path / "pieces",
                should_stop=lambda left=left: next(left, None) is None,
                max_candidates=budget,
            )
    assert history(tmp_path / "pieces") == history(tmp_path / "whole")
    starts = read_ledger(tmp_path / "pieces").starts
    assert len(starts) > 4


def test_a_smaller_budget_ends_the_search_where_it_is(tmp_path):
    fast_search.run(tmp_path / "a", max_candidates=60)
    before = history(tmp_path / "a")
    assert fast_search.run(tmp_path / "a", max_candidates=20)
    assert history(tmp_path / "a") == before


def test_every_candidate_is_judged_as_the_filters_and_the_evaluator_say(tmp_path):
    assert fast_search.run(tmp_path / "a", num_workers=2, max_candidates=NUM_CANDIDATES)
    first: dict[str, int] = {}
    seen = Counter()
    for entry in read_ledger(tmp_path / "a").entries:
        rejection, verdict = reject(entry.candidate.graph), entry.verdict
        seen[verdict.stage] += 1
        if rejection is not None:
            assert (verdict.stage, verdict.reason) == ("filters", rejection.reason)
            assert entry.function is None
        elif (earlier := first.setdefault(entry.function, entry.id)) != entry.id:
            assert verdict.reason == Reason.DUPLICATE
            assert verdict.details["message"].endswith(f"candidate {earlier}")
        else:
            assert entry.seed == evaluation_seed(0, entry.id)
            assert verdict == evaluate(entry.candidate.graph, entry.seed)
    assert min(seen[stage] for stage in ("filters", "wide", "scored")) > 5


def test_without_filters_all_that_sees_x_is_evaluated(tmp_path):
    assert fast_search.run(tmp_path / "a", max_candidates=60, filters=None)
    entries = list(read_ledger(tmp_path / "a").entries)
    for entry in entries:
        sees_x = 0 in entry.candidate.graph.effective
        assert (entry.verdict.stage == "filters") == (not sees_x)
    assert {e.verdict.reason for e in entries} == {None, "accuracy", Reason.NO_PATH_FROM_X}


@pytest.mark.parametrize("has_filters", [True, False])
def test_a_candidate_is_filtered_and_hashed_once(tmp_path, monkeypatch, has_filters):
    """By the driver, which hands the hash on; without filters neither is done before training."""
    calls, trials = Counter(), []
    for function in (filters.reject, filters.functional_hash):

        def counted(graph, *args, function=function):
            calls[function.__name__] += 1
            return function(graph, *args)

        monkeypatch.setattr(filters, function.__name__, counted)

    def record(trial):
        trials.append(trial)
        return evaluate(trial.graph, trial.seed)

    config = make_config(max_candidates=60, **({} if has_filters else {"filters": None}))
    with Ledger(tmp_path, config) as ledger:
        settings = SearchSettings.from_config(config)
        assert Driver(settings, ledger, InlineExecutor(record), show_nothing).run(lambda: False)
    entries = list(read_ledger(tmp_path).entries)
    hashed = [entry for entry in entries if entry.function is not None]
    assert calls == ({"reject": 60, "functional_hash": len(hashed)} if has_filters else {})
    assert bool(hashed) == has_filters
    assert len(trials) > 1
    assert [trial.function for trial in trials] == [entries[trial.id].function for trial in trials]


def test_what_was_pending_at_a_kill_keeps_its_hash(tmp_path):
    """The resumed search evaluates it with the hash that the ledger has."""
    config, trials = make_config(max_candidates=60), []

    def record(trial):
        trials.append(trial)
        if len(trials) == 1:
            raise KeyboardInterrupt
        return evaluate(trial.graph, trial.seed)

    settings = SearchSettings.from_config(config)
    for _ in range(2):
        with (
            Ledger(tmp_path, config) as ledger,
            contextlib.suppress(KeyboardInterrupt),
        ):
            Driver(settings, ledger, InlineExecutor(record), show_nothing).run(lambda: False)
    assert trials[0] == trials[1]
    assert trials[0].function is not None
    assert len(read_ledger(tmp_path).entries) == 60


def test_a_space_that_is_used_up_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "MAX_REJECTIONS", 300)
    config = make_config(max_candidates=100_000) | {"space": {"num_nodes": 1}}
    settings = SearchSettings.from_config(config)
    executor = InlineExecutor(lambda trial: evaluate(trial.graph, trial.seed))
    with Ledger(tmp_path, config) as ledger:
        search = Driver(settings, ledger, executor, show_nothing)
        with pytest.raises(UserError, match=r"300 candidates in succession .* num_nodes=1 "):
            search.run(lambda: False)
    entries = list(read_ledger(tmp_path).entries)
    assert all(entry.verdict.stage == "filters" for entry in entries[-300:])
    assert entries[-301].verdict.stage != "filters"


def test_a_ledger_of_another_version_of_the_search_is_refused(tmp_path):
    fast_search.run(tmp_path / "a", max_candidates=30)
    contents = read_ledger(tmp_path / "a")
    with pytest.raises(UserError, match="the record has the candidate 0, n4 = "):
        resume_search(SearchSettings.from_config(make_config(seed=3)), contents)


def test_seeds_of_candidates_are_their_own():
    seeds = {evaluation_seed(search, number) for search in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.fixture
def handled_interrupts():
    """SIGINT as in the foreground, also where the tests run as a background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop(number, handled_interrupts):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored(handled_interrupts):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop()


class Harassed:
    """A search in processes of its own that are killed at random moments."""

    def __init__(self, folder, num_workers, seconds, seed, num_candidates=NUM_CANDIDATES):
        self.workdir, self.log = folder / "search", folder / "evaluations.txt"
        self.command = [sys.executable, "-m", "tests.search.run.fast_search", str(self.workdir)]
        self.command += ["--workers", str(num_workers), "--seconds", str(seconds)]
        self.command += ["--candidates", str(num_candidates)]
        self.random = random.Random(seed)
        self.seconds = seconds
        self.num_candidates = num_candidates
        self.known = []  # entries with a result after a kill, and how long the log was then
        self.num_lines = 0  # of the log, when the driver was started
        self.driver = None

    def lines(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def num_ended(self):
        return sum(line.startswith("end") for line in self.lines())

    def start(self):
        self.num_lines = len(self.lines())
        self.driver = subprocess.Popen(self.command, cwd=ROOT)
        while len(self.lines()) == self.num_lines and self.driver.poll() is None:
            time.sleep(0.01)

    def kill(self, target):
        # A candidate that three workers died of would be given up, and rightly so.
        ended = self.num_ended()
        while self.num_ended() == ended and self.driver.poll() is None:
            time.sleep(0.01)
        time.sleep(self.random.uniform(0, 12 * self.seconds))
        assert self.driver.poll() is None, "the search ended before it was killed"
        if target == "driver":
            self.driver.kill()
            self.driver.wait()
        else:
            self.kill_worker()
        done = [entry for entry in read_ledger(self.workdir).entries if entry.place is not None]
        self.known.append((done, len(self.lines())))

    def kill_worker(self):
        while True:
            lines = self.lines()[self.num_lines :]
            workers = [int(line.split()[2]) for line in lines if line.startswith("start")]
            try:
                os.kill(self.random.choice(workers[-2:]), signal.SIGKILL)
                return
            except (IndexError, ProcessLookupError):
                time.sleep(0.01)  # until the one in its place has begun

    def run(self, targets):
        self.start()
        for target in targets:
            self.kill(target)
            if target == "driver":
                self.start()
        assert self.driver.wait(300) == 0

    def check(self, most_repeated):
        """Nothing lost, nothing repeated, and never more than was unfinished at a kill."""
        entries = list(read_ledger(self.workdir).entries)
        assert [entry.id for entry in entries] == list(range(self.num_candidates))
        assert sorted(entry.place for entry in entries) == list(range(self.num_candidates))
        lines = self.lines()
        for done, length in self.known:
            assert all(entries[entry.id] == entry for entry in done)
            finished = {str(entry.seed) for entry in done}
            later = {line.split()[1] for line in lines[length:] if line.startswith("start")}
            assert not finished & later
        starts = Counter(line.split()[1] for line in lines if line.startswith("start"))
        evaluated = {str(e.seed) for e in entries if e.verdict.stage != "filters"}
        assert set(starts) == evaluated
        assert starts.total() - len(starts) <= most_repeated
        for entry in entries:
            if entry.verdict.stage != "filters":
                assert entry.verdict == evaluate(entry.candidate.graph, entry.seed)


def test_kills_change_nothing_with_one_worker(tmp_path):
    search = Harassed(tmp_path, num_workers=1, seconds=0.02, seed=0)
    search.run(["driver", "worker"])
    search.check(most_repeated=2)
    assert fast_search.run(tmp_path / "whole", max_candidates=NUM_CANDIDATES)
    assert history(search.workdir) == history(tmp_path / "whole")


def test_kills_lose_and_repeat_nothing_with_two_workers(tmp_path):
    search = Harassed(tmp_path, num_workers=2, seconds=0.03, seed=1)
    search.run(["worker", "driver"])
    search.check(most_repeated=1 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 3])
def test_twenty_kills_lose_and_repeat_nothing(tmp_path, num_workers):
    many = 1500  # so that the last kill finds it at work
    search = Harassed(tmp_path, num_workers, seconds=0.1, seed=num_workers, num_candidates=many)
    targets = ["driver"] * 10 + ["worker"] * 10
    search.random.shuffle(targets)
    search.run(targets)
    search.check(most_repeated=10 + 10 * num_workers)
    config = make_config(max_candidates=many)
    resumed = resume_search(SearchSettings.from_config(config), read_ledger(search.workdir))
    assert resumed.num_asked == many
    if num_workers == 1:
        assert fast_search.run(tmp_path / "whole", max_candidates=many)
        assert history(search.workdir) == history(tmp_path / "whole")


def test_sigterm_stops_cleanly_and_at_once(tmp_path):
    search = Harassed(tmp_path, num_workers=1, seconds=30.0, seed=0)
    search.start()
    begin = time.monotonic()
    search.driver.terminate()
    assert search.driver.wait(20) == 1  # as fast_search reports a search that was stopped
    assert time.monotonic() - begin < 20
    pending = [entry for entry in read_ledger(search.workdir).entries if entry.place is None]
    assert len(pending) == 1
    assert not list(search.workdir.glob("*-wal"))
