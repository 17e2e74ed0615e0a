"""Worker processes: each task ends exactly once, whoever dies."""

import dataclasses
import os
import signal
import time

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.placement import Place
from evonorm_jax.search.executors import FAILED, MAX_ATTEMPTS, MAX_FAILURES, Task, Worker
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.local_executor import LocalExecutor
from tests.search.fast_search import Factory, InlineExecutor, evaluate

GOOD = [Graph.from_text(f"n4 = {name}(x)") for name in ("exp", "tanh", "sigmoid", "abs", "neg")]
DEADLY = Graph.from_text("n4 = log(x)")
SCORED = evaluate(GOOD[0], 1)
PLACES = [Place("one"), Place("two")]


def run_to_end(executor, tasks, deadline=120.0):
    """Submits as a driver does; outcomes by task id, and that there are no others."""
    waiting, outcomes = list(tasks), {}
    end = time.monotonic() + deadline
    while waiting or executor.num_unfinished:
        assert time.monotonic() < end
        while waiting and executor.has_room:
            executor.submit(waiting.pop(0))
        for outcome in executor.wait(0.2):
            assert outcome.task.id not in outcomes
            outcomes[outcome.task.id] = outcome.evaluation
    return outcomes


def test_tasks_end_with_the_values_of_the_function_although_workers_die(tmp_path):
    """A candidate that kills its worker, one that raises, and a kill from outside."""
    broken = Graph.from_text("n4 = square(x)")
    log = tmp_path / "evaluations.txt"
    factory = Factory(log, seconds=0.3, deadly=(str(DEADLY),), broken=(str(broken),))
    tasks = [Task(i, graph, seed=i) for i, graph in enumerate([*GOOD, DEADLY, broken])]
    with LocalExecutor(factory, PLACES, tmp_path / "logs") as executor:
        assert executor.workers == []  # nothing to do yet, so no process either
        executor.submit(tasks[0])
        first = executor.workers[0].process.pid
        while not log.exists():
            executor.wait(0.05)
        os.kill(first, signal.SIGKILL)  # in the middle of task 0
        outcomes = {0: None} | run_to_end(executor, tasks[1:])
    assert sorted(outcomes) == list(range(7))
    for task in tasks[:5]:
        assert outcomes[task.id] == evaluate(task.graph, task.seed)
    died, raised = outcomes[5], outcomes[6]
    assert died.reason == raised.reason == FAILED
    assert "ended with SIGKILL" in died.details["message"]
    assert "ZeroDivisionError: the evaluator broke" in raised.details["message"]
    counts = [log.read_text().count(f"start {task.id} ") for task in tasks]
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
        run_to_end(executor, [Task(0, GOOD[0], 0)])


class Failing(InlineExecutor):
    """Workers that fail on every task but those with the seed 1."""

    def submit(self, task):
        for _ in range(MAX_ATTEMPTS):
            worker = Worker()
            worker.task = task
            self._take(worker, ("done", SCORED) if task.seed else ("failed", "broken GPU"))
            if not self._queue:
                return
            assert self._queue.popleft() is task


def test_what_was_given_up_is_an_outcome_once_another_task_succeeds():
    executor = Failing(None)
    for number, seed in enumerate((0, 0, 1, 0)):
        assert executor.has_room == (number < 3)  # the next is not kept waiting by those
        executor.submit(Task(number, GOOD[0], seed))
        assert executor.num_unfinished == number + 1
    outcomes = executor.wait(0.0)
    assert [outcome.task.id for outcome in outcomes] == [0, 1, 2, 3]  # 3: nothing else is left
    reasons = [outcome.evaluation.reason for outcome in outcomes]
    assert reasons == [FAILED, FAILED, SCORED.reason, FAILED] != [FAILED] * 4
    assert executor.num_unfinished == 0


def test_a_fault_that_is_not_the_candidates_ends_the_search():
    executor = Failing(None)
    fails = [Task(i, GOOD[0], seed=0) for i in range(MAX_FAILURES)]
    good = Task("good", GOOD[0], seed=1)
    outcomes = run_to_end(executor, [*fails[1:], good])
    assert outcomes["good"] is SCORED
    assert {outcomes[task.id].reason for task in fails[1:]} == {FAILED}
    for task in fails[1:]:
        executor.submit(task)
        assert executor.has_room
    with pytest.raises(UserError, match=r"5 evaluations in succession failed.* broken GPU"):
        executor.submit(fails[0])
    assert not executor._ended  # none of them is called the candidate's failure


def test_closing_leaves_no_process_behind(tmp_path):
    with LocalExecutor(Factory(tmp_path / "log", seconds=60), PLACES) as executor:
        executor.submit(Task(0, GOOD[0], 0))
        processes = [worker.process.pid for worker in executor.workers]
        assert not executor.wait(0.1)
    assert len(processes) == len(PLACES)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
