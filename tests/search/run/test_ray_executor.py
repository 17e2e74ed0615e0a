"""Evaluations on a Ray cluster of this machine.

For that, `pip install -e ".[cluster]"` and `pytest -m cluster`.
"""

import importlib.util
import os
import signal

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.verdicts import EVALUATION_FAILED
from evonorm_jax.search.run.driver import Driver, SearchSettings
from evonorm_jax.search.run.executor import MAX_ATTEMPTS
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import read_ledger
from evonorm_jax.search.run.ray_executor import RayExecutor
from evonorm_jax.search.run.worker import Trial
from tests.search.run.fast_search import Factory, evaluate, make_config, show_nothing
from tests.search.run.test_local_executor import DEADLY, GOOD, run_to_end

pytestmark = [
    pytest.mark.cluster,
    # Not imported here: what `connect` sets for a cluster of this machine, Ray reads when it is.
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install ray"),
    # Ray leaves its log files and sockets to the garbage collector, and warns of its own defaults.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_actors_that_die_lose_and_repeat_nothing(tmp_path):
    """One from outside in the middle of a trial, one by a trial that kills, one by an exception."""
    broken = Graph.from_text("n4 = square(x)")
    log = tmp_path / "evaluations.txt"
    factory = Factory(log, seconds=1.0, deadly=(str(DEADLY),), broken=(str(broken),))
    trials = [Trial(i, graph, seed=i) for i, graph in enumerate([*GOOD, DEADLY, broken])]
    with RayExecutor(factory, "local", num_workers=2) as executor:
        executor.submit(trials[0])
        while not log.exists():
            assert not executor.wait(0.05)
        os.kill(int(log.read_text().split()[2]), signal.SIGKILL)
        outcomes = run_to_end(executor, trials[1:])
        assert executor.deaths == 1 + 2 * MAX_ATTEMPTS
    assert sorted(outcomes) == list(range(7))
    for trial in trials[:5]:
        assert outcomes[trial.id] == evaluate(trial.graph, trial.seed)
    died, raised = outcomes[5], outcomes[6]
    assert died.reason == raised.reason == EVALUATION_FAILED
    assert "ActorDiedError" in died.details["message"]
    assert "ZeroDivisionError: the evaluator broke" in raised.details["message"]
    counts = [log.read_text().count(f"start {trial.id} ") for trial in trials]
    assert counts == [2, 1, 1, 1, 1, MAX_ATTEMPTS, MAX_ATTEMPTS]


def test_a_search_on_actors_is_kept_and_resumed(tmp_path):
    for budget in (60, 120):
        config = make_config(max_candidates=budget)
        with (
            Ledger(tmp_path / "search", config) as ledger,
            RayExecutor(Factory(tmp_path / "log"), "local", num_workers=2) as executor,
        ):
            settings = SearchSettings.from_config(config)
            assert Driver(settings, ledger, executor, show_nothing).run(lambda: False)
    entries = list(read_ledger(tmp_path / "search").entries)
    assert [entry.id for entry in entries] == list(range(120))
    evaluated = [entry for entry in entries if entry.verdict.stage != "filters"]
    assert len(evaluated) > 3
    for entry in evaluated:
        assert entry.verdict == evaluate(entry.candidate.graph, entry.seed)
    starts = [line for line in (tmp_path / "log").read_text().splitlines() if "start" in line]
    assert len(starts) == len(evaluated)


def test_a_node_may_leave_a_cluster(tmp_path):
    """The driver joins a cluster of two nodes with a core each; one node dies with its trial."""
    from ray.cluster_utils import Cluster

    log = tmp_path / "evaluations.txt"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with pytest.raises(UserError, match="--workers=3: this Ray cluster has room for 1 to 2"):
            RayExecutor(Factory(log), cluster.address, num_workers=3)
        trials = [Trial(i, graph, seed=i) for i, graph in enumerate(GOOD)]
        with RayExecutor(Factory(log, seconds=1.0), cluster.address) as executor:
            assert executor.num_workers == 2
            executor.submit(trials[0])
            executor.submit(trials[1])
            while not log.exists() or log.read_text().count("start") < 2:
                assert not executor.wait(0.05)
            cluster.remove_node(node, allow_graceful=False)
            outcomes = run_to_end(executor, trials[2:])
            assert executor.deaths == 1
    finally:
        cluster.shutdown()
    assert outcomes == {trial.id: evaluate(trial.graph, trial.seed) for trial in trials}
    assert log.read_text().count("start") == len(trials) + 1
