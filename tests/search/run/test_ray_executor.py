"""Evaluations on a Ray cluster of this machine; without Ray, the message that says so.

For the former, `pip install -e ".[cluster]"` and `pytest -m cluster`.
"""

import os
import signal
import sys
import types

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.verdicts import EVALUATION_FAILED
from evonorm_jax.search.run.driver import Driver, SearchSettings
from evonorm_jax.search.run.executor import MAX_ATTEMPTS
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import read_ledger
from evonorm_jax.search.run.ray_executor import RayExecutor
from evonorm_jax.search.run.stop_request import StopRequest
from evonorm_jax.search.run.worker import Trial
from tests.search.run.fast_search import Factory, evaluate, make_config, show_nothing
from tests.search.run.test_local_executor import DEADLY, GOOD, run_to_end

try:
    import ray
except ImportError:
    ray = None

needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install ray")
pytestmark = [
    # Ray leaves its log files and sockets to the garbage collector, and warns of its own defaults.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_without_ray_there_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--ray needs Ray, .* pip install ray .* leave --ray out"):
        RayExecutor(evaluate, "auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_without_a_cluster_there_is_one_message(address, monkeypatch):
    """At once, and not after the minutes for which Ray would go on trying."""
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=None))
    with pytest.raises(UserError, match=f"--ray={address}: there is no Ray cluster.*refused"):
        RayExecutor(evaluate, address)


@pytest.fixture
def fake_ray(monkeypatch):
    """A Ray that takes the signals, as the real one does, and has no room."""
    started = []

    def init(**fields):
        started.append({**fields, "mode": os.environ.get("RAY_AUTH_MODE")})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    fake = types.SimpleNamespace(
        init=init, cluster_resources=lambda: {"CPU": 2.0}, shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    yield started
    os.environ.pop("RAY_AUTH_MODE", None)


def test_a_signal_asks_the_search_to_stop_although_ray_wants_it(fake_ray):
    with StopRequest() as stop:
        RayExecutor(evaluate, "local")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert stop.signal == signal.SIGTERM


@pytest.mark.hostile
def test_a_cluster_of_this_machine_is_for_nobody_else(fake_ray):
    RayExecutor(evaluate, "local")
    assert fake_ray[0]["_node_ip_address"] == "127.0.0.1"
    assert fake_ray[0]["include_dashboard"] is False
    assert fake_ray[0]["mode"] == "token"


def test_a_cluster_elsewhere_is_taken_as_it_is(fake_ray):
    RayExecutor(evaluate, "auto")
    assert "_node_ip_address" not in fake_ray[0]
    assert fake_ray[0]["mode"] is None


@pytest.mark.cluster
@needs_ray
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


@pytest.mark.cluster
@needs_ray
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


@pytest.mark.cluster
@needs_ray
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
