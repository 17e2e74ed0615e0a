"""Worker processes: each trial ends exactly once, whoever dies."""

import dataclasses
import os
import signal
import time

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.placement import Place
from evonorm_jax.search.engine.verdicts import EVALUATION_FAILED
from evonorm_jax.search.run.executor import MAX_ATTEMPTS, MAX_FAILURES, WorkerHandle
from evonorm_jax.search.run.local_executor import LocalExecutor
from evonorm_jax.search.run.worker import Trial
from tests.search.run.fast_search import Factory, InlineExecutor, evaluate

GOOD = [Graph.from_text(f"n4 = {name}(x)") for name in ("exp", "tanh", "sigmoid", "abs", "neg")]
DEADLY = Graph.from_text("n4 = log(x)")
SCORED = evaluate(GOOD[0], 1)
PLACES = [Place("one"), Place("two")]


def run_to_end(executor, trials, deadline=120.0):
    """Submits as a driver does; outcomes by trial id, and that there are no others."""
    waiting, outcomes = list(trials), {}
    end = time.monotonic() + deadline
    while waiting or executor.num_unfinished:
        assert time.monotonic() < end
        while waiting and executor.has_room:
            executor.submit(waiting.pop(0))
        for outcome in executor.wait(0.2):
            assert outcome.trial.id not in outcomes
            outcomes[outcome.trial.id] = outcome.verdict
    return outcomes


def test_trials_end_with_the_values_of_the_function_although_workers_die(tmp_path):
    """A candidate that kills its worker, one that raises, and a kill from outside."""
    broken = Graph.from_text("n4 = square(x)")
    log = tmp_path / "evaluations.txt"
    factory = Factory(log, seconds=0.3, deadly=(str(DEADLY),), broken=(str(broken),))
    trials = [Trial(i, graph, seed=i) for i, graph in enumerate([*GOOD, DEADLY, broken])]
    with LocalExecutor(factory, PLACES, tmp_path / "logs") as executor:
        assert executor.workers == []  # nothing to do yet, so no process either
        executor.submit(trials[0])
        first = executor.workers[0].process.pid
        while not log.exists():
            executor.wait(0.05)
        os.kill(first, signal.SIGKILL)  # in the middle of trial 0
        outcomes = {0: None} | run_to_end(executor, trials[1:])
    assert sorted(outcomes) == list(range(7))
    for trial in trials[:5]:
        assert outcomes[trial.id] == evaluate(trial.graph, trial.seed)
    died, raised = outcomes[5], outcomes[6]
    assert died.reason == raised.reason == EVALUATION_FAILED
    assert "ended with SIGKILL" in died.details["message"]
    assert "ZeroDivisionError: the evaluator broke" in raised.details["message"]
    counts = [log.read_text().count(f"start {trial.id} ") for trial in trials]
    assert counts == [2, 1, 1, 1, 1, MAX_ATTEMPTS, MAX_ATTEMPTS]
    assert executor.deaths >= 2 * MAX_ATTEMPTS  # and one more, if it was waited for


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A worker that cannot be built."""

    how: str

    def __call__(self):
        if self.how == "user":
            raise UserError("there is no data set 'cifar11'")
        if self.how == "bug":
            raise ZeroDivisionError("in the factory")
        print("out of something", flush=True)
        os._exit(3)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("user", UserError, "^there is no data set 'cifar11'$"),
        ("bug", RuntimeError, "cannot build its evaluator:(.|\n)*in the factory"),
        ("exit", UserError, "3 in succession; .* exit code 3; it had printed:\nout of something"),
    ],
)
def test_workers_that_cannot_start_are_one_message(tmp_path, how, error, message):
    executor = LocalExecutor(Unusable(how), PLACES[:1], tmp_path)
    with executor, pytest.raises(error, match=message):
        run_to_end(executor, [Trial(0, GOOD[0], 0)])


class Failing(InlineExecutor):
    """Workers that fail on every trial but those with the seed 1."""

    def submit(self, trial):
        for _ in range(MAX_ATTEMPTS):
            worker = WorkerHandle()
            worker.trial = trial
            self._take(worker, ("done", SCORED) if trial.seed else ("failed", "broken GPU"))
            if not self._queue:
                return
            assert self._queue.popleft() is trial


def test_what_was_given_up_is_an_outcome_once_another_trial_succeeds():
    executor = Failing(None)
    for number, seed in enumerate((0, 0, 1, 0)):
        assert executor.has_room == (number < 3)  # the next is not kept waiting by those
        executor.submit(Trial(number, GOOD[0], seed))
        assert executor.num_unfinished == number + 1
    outcomes = executor.wait(0.0)
    assert [outcome.trial.id for outcome in outcomes] == [0, 1, 2, 3]  # 3: nothing else is left
    reasons = [outcome.verdict.reason for outcome in outcomes]
    assert reasons == [EVALUATION_FAILED, EVALUATION_FAILED, SCORED.reason, EVALUATION_FAILED]
    assert executor.num_unfinished == 0


def test_a_fault_that_is_not_the_candidates_ends_the_search():
    executor = Failing(None)
    fails = [Trial(i, GOOD[0], seed=0) for i in range(MAX_FAILURES)]
    good = Trial("good", GOOD[0], seed=1)
    outcomes = run_to_end(executor, [*fails[1:], good])
    assert outcomes["good"] is SCORED
    assert {outcomes[trial.id].reason for trial in fails[1:]} == {EVALUATION_FAILED}
    for trial in fails[1:]:
        executor.submit(trial)
        assert executor.has_room
    with pytest.raises(UserError, match=r"5 evaluations in succession failed.* broken GPU"):
        executor.submit(fails[0])
    assert not executor._ended  # none of them is called the candidate's failure


def test_closing_leaves_no_process_behind(tmp_path):
    with LocalExecutor(Factory(tmp_path / "log", seconds=60), PLACES) as executor:
        executor.submit(Trial(0, GOOD[0], 0))
        processes = [worker.process.pid for worker in executor.workers]
        assert not executor.wait(0.1)
    assert len(processes) == len(PLACES)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
