"""Runs on a cluster: on a Ray that stands in for one, and, marked `cluster`, on a real one."""

import importlib.util
import os
import signal
import socket
import sys
import types

import pytest

from evonorm_jax import ray_cluster
from evonorm_jax.errors import UserError
from evonorm_jax.run_lock import try_lock
from evonorm_jax.sweeps import CellState, SweepRunner, ray_runs
from evonorm_jax.sweeps.history import record_event
from evonorm_jax.sweeps.ray_runs import RayRuns
from tests.sweeps.fake_ray import FakeRay
from tests.sweeps.fake_sweep import RUN, cells
from tests.sweeps.test_runner import history, wait_until

# The stand-in starts runs from this process, in which other tests have used JAX. Its warning does
# not concern them: between fork and exec the child makes two system calls.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

CPU_NODES = [{"CPU": 4.0}, {"CPU": 3.0}, {"node:head": 1.0}]
GPU_NODES = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}]


@pytest.fixture
def fake_ray(monkeypatch):
    """Starts a stand-in with those nodes."""

    def start(nodes):
        ray = FakeRay(nodes)
        scheduling = types.ModuleType("ray.util.scheduling_strategies")
        scheduling.NodeAffinitySchedulingStrategy = lambda node, soft: node
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
        monkeypatch.setitem(sys.modules, scheduling.__name__, scheduling)
        return ray

    monkeypatch.setattr(ray_cluster, "_LOCAL_ENVIRONMENT", {})
    monkeypatch.setattr(ray_runs, "_WAIT_SECONDS", 0.0)
    return start


class Listener:
    """Keeps the events, and does something at one of them."""

    def __init__(self, at="", do=lambda: None):
        self.events = []
        self._at, self._do = at, do

    def event(self, text):
        self.events.append(text)

    def update(self, runner):
        if self._at and any(self._at in event for event in self.events):
            self._at = ""
            self._do()


def arguments_of(ticks, fail=""):
    def arguments(cell):
        return ["-c", RUN, str(cell.workdir), str(ticks), "1" if cell.name == fail else "0", "0"]

    return arguments


def run_sweep(root, listener=None, num_cells=2, ticks=3, fail="", **fields):
    root.mkdir(exist_ok=True)
    record_event(root, "start")
    with RayRuns("local", arguments_of(ticks, fail), **fields) as runs:
        runner = SweepRunner(cells(root, num_cells), runs, listener or Listener())
        runner.run()
    return runner


def test_cells_run_on_nodes_and_finished_ones_are_skipped(tmp_path, fake_ray):
    ray = fake_ray(CPU_NODES)
    listener = Listener()
    runner = run_sweep(tmp_path, listener, num_cells=2, fail="bn_relu/seed=1")
    assert f"start      bn_relu/seed=0 on {socket.gethostname()}" in listener.events
    assert history(tmp_path, 0) == ["started", "finished"]
    (failure,) = runner.failures
    assert (failure.cell.name, failure.how) == ("bn_relu/seed=1", "exit code 1")
    assert failure.tail == "this run was told to fail"
    assert ray.asked == [(2, 0)] * 2
    assert run_sweep(tmp_path).count(CellState.FINISHED) == 2
    assert [history(tmp_path, i) for i in (0, 1)] == [
        ["started", "finished"],
        ["started", "started", "finished"],
    ]


@pytest.mark.hostile
def test_a_cell_that_is_lost_with_its_node_goes_on_elsewhere(tmp_path, fake_ray):
    ray = fake_ray(CPU_NODES)
    ray.dying = ["start", "wait"]
    listener = Listener()
    # 40 ticks take 2 s, so that the run goes on when the sweep first looks after it.
    assert run_sweep(tmp_path, listener, num_cells=1, ticks=40).count(CellState.FINISHED) == 1
    lost = "lost       bn_relu/seed=0: RayError: The node of this actor has died."
    assert listener.events.count(lost) == 2
    ray.dying = ["start"] * 3
    runner = run_sweep(tmp_path / "unlucky", num_cells=1)
    assert [failure.how for failure in runner.failures] == [lost.partition(": ")[2]]


@pytest.mark.hostile
def test_a_signal_lets_the_runs_save(tmp_path, fake_ray):
    fake_ray(CPU_NODES)
    listener = Listener("start  ", lambda: os.kill(os.getpid(), signal.SIGTERM))
    runner = run_sweep(tmp_path, listener, num_cells=1, ticks=100_000)
    assert runner.stop_signal == signal.SIGTERM
    assert listener.events[-1].startswith("stopped    bn_relu/seed=0")
    assert history(tmp_path, 0) in ([], ["started", "saved"])  # the signal may come before it hears
    os.close(try_lock(tmp_path / "bn_relu" / "seed=0"))  # which nobody holds any more


def test_a_cell_that_another_sweep_runs_is_left_to_it(tmp_path, fake_ray):
    fake_ray(CPU_NODES)
    (cell,) = cells(tmp_path, 1)
    lock = try_lock(cell.workdir)
    listener = Listener(f"elsewhere  {cell.name}: process {os.getpid()}", lambda: os.close(lock))
    assert run_sweep(tmp_path, listener, num_cells=1).count(CellState.FINISHED) == 1
    assert history(tmp_path, 0) == ["started", "finished"]


@pytest.mark.hostile
def test_nodes_that_do_not_share_the_folder_are_one_message(tmp_path, fake_ray, monkeypatch):
    fake_ray(CPU_NODES)
    look = ray_runs._look
    monkeypatch.setattr(ray_runs, "_look", lambda folder, root, mark: look(folder, root, b"other"))
    message = rf"does not share the sweep's files: --workdir={tmp_path} is another folder there\."
    with pytest.raises(UserError, match=message):
        run_sweep(tmp_path)
    nowhere = tmp_path / "nowhere"
    monkeypatch.setattr(ray_runs, "_look", lambda folder, root, mark: look(nowhere, root, mark))
    with pytest.raises(UserError, match=rf"there is no folder {nowhere}, from which the sweep"):
        run_sweep(tmp_path)
    assert history(tmp_path, 0) == []


@pytest.mark.parametrize(
    ("nodes", "fields", "number", "environment"),
    [
        (CPU_NODES, {}, 3, {}),  # two and one, of two cores each
        (CPU_NODES, {"cpus": 1, "jobs": 5}, 5, {}),
        (GPU_NODES, {}, 2, {}),
        (GPU_NODES, {"gpus": 0.5}, 4, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}),
        (GPU_NODES, {"gpus": 2, "cpus": 8}, 1, {}),
        (GPU_NODES, {"gpus": 0}, 12, {}),
    ],
)
def test_places_are_what_the_nodes_have_room_for(fake_ray, nodes, fields, number, environment):
    fake_ray(nodes)
    with RayRuns("local", arguments_of(1), **fields) as runs:
        assert len(runs.places) == number
        assert runs.places[0].environment == environment


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jobs": 4}, r"--jobs=4: this Ray cluster has room for 1 to 3 runs of 2 CPU and 0 GPU"),
        ({"jobs": 0}, r"--jobs=0: this Ray cluster has room for 1 to 3 runs"),
        ({"cpus": 5}, r"has room for a run, which takes 5 CPU and 0 GPU"),
        ({"cpus": 0}, r"--cpus_per_run=0: a run needs at least one core"),
        ({"gpus": 1}, r"has room for a run, which takes 1 CPU and 1 GPU"),
        ({"gpus": 1.5}, r"--gpus_per_run=1\.5: a run takes a whole number of GPUs, or a part"),
        ({"gpus": float("nan")}, r"--gpus_per_run=nan"),
        ({"gpus": -1.0}, r"--gpus_per_run=-1"),
    ],
)
def test_what_no_node_has_is_one_message(fake_ray, fields, message):
    ray = fake_ray(CPU_NODES)
    with pytest.raises(UserError, match=message):
        RayRuns("local", arguments_of(1), **fields)
    assert ray.started == {}


@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_node_takes_its_run_with_it_and_another_one_resumes_it(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        first = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

        def replace_node():
            wait_until((tmp_path / "bn_relu" / "seed=0" / "ticks").exists)
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1)

        listener = Listener("start  ", replace_node)
        record_event(tmp_path, "start")
        with RayRuns(cluster.address, arguments_of(100)) as runs:
            runner = SweepRunner(cells(tmp_path, 1), runs, listener)
            assert runner.run()
    finally:
        cluster.shutdown()
    kinds = [event.split()[0] for event in listener.events]
    assert kinds[:2] == ["start", "lost"]
    assert kinds[-2:] == ["resume", "finished"]
    assert history(tmp_path, 0)[0] == "started"
    assert history(tmp_path, 0)[-2:] == ["started", "finished"]
