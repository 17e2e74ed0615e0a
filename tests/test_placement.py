"""Where runs and workers go: GPUs first, then TPU chips, then CPU cores."""

import subprocess

import pytest

from evonorm_jax import placement
from evonorm_jax.errors import UserError
from evonorm_jax.placement import (
    Place,
    places_for_runs,
    places_for_workers,
    run_environment,
    visible_gpus,
)


@pytest.fixture
def gpus(monkeypatch):
    """A host with four GPUs."""

    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 0, stdout="0\n1\n2\n3\n")

    monkeypatch.setattr(placement.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(placement.subprocess, "run", run)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_one_run_to_a_gpu(gpus):
    assert places_for_runs() == [
        Place(f"GPU {i}", {"CUDA_VISIBLE_DEVICES": str(i)}) for i in range(4)
    ]
    assert [place.name for place in places_for_runs(2)] == ["GPU 0", "GPU 1"]


def test_only_the_gpus_that_are_visible_are_used(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8d1f")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places_for_runs()] == [
        "2",
        "GPU-8d1f",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("NoDevFiles", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("none", []),
        ("1,x,2", ["1"]),
        ("MIG-GPU-8d1f/1/0,GPU-8d1f-22", ["MIG-GPU-8d1f/1/0", "GPU-8d1f-22"]),
    ],
)
def test_cuda_sees_no_device_behind_the_first_that_is_none(gpus, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == expected


def test_an_empty_wish_for_a_platform_is_none(gpus, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert visible_gpus() == ["0", "1", "2", "3"]


def test_more_runs_than_gpus_share_their_memory(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    found = places_for_runs(6)
    assert [place.name for place in found] == ["GPU 0", "GPU 1"] * 3
    assert {place.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for place in found} == {"0.300"}


def test_cores_and_tpus(monkeypatch):
    assert visible_gpus() == []  # JAX_PLATFORMS=cpu in the tests
    monkeypatch.setattr(placement, "num_cores", lambda: 16)
    assert places_for_runs() == [Place("CPU", {})] * 8
    assert len(places_for_runs(3)) == 3
    assert [place.name for place in places_for_runs(has_tpu=True)] == ["TPU"]
    monkeypatch.setattr(placement, "num_cores", lambda: 1)
    assert len(places_for_runs()) == 1
    with pytest.raises(UserError, match="--jobs=0"):
        places_for_runs(0)


def test_a_run_is_alone_even_if_its_sweep_is_one_of_many_tasks(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    environment = run_environment(Place("GPU 1", {"CUDA_VISIBLE_DEVICES": "1"}))
    assert "SLURM_STEP_NUM_TASKS" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"
    assert environment["JAX_PLATFORMS"] == "cpu"


def test_one_worker_for_each_gpu(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [place.name for place in places_for_workers()] == ["GPU 2", "GPU 5"]
    environments = [place.environment for place in places_for_workers(3)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["2", "5", "2"]
    assert environments[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"


@pytest.mark.parametrize(
    ("num_workers", "cores"),
    [(None, [{0}, {1}, {4}, {5}]), (2, [{0, 1}, {4, 5}]), (1, [{0, 1, 4, 5}]), (3, None)],
)
def test_one_worker_for_each_core(monkeypatch, num_workers, cores):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "cores", lambda: [0, 1, 4, 5])
    places = places_for_workers(num_workers)
    if cores is None:  # every core has one worker
        assert sorted(core for place in places for core in place.cores) == [0, 1, 4, 5]
    else:
        assert [place.cores for place in places] == cores


def test_a_tpu_host_has_one_worker(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert [place.name for place in places_for_workers(has_tpu=True)] == ["TPU"]
    with pytest.raises(UserError, match="--workers=2: one process takes all TPU chips"):
        places_for_workers(2, has_tpu=True)


def test_no_worker_is_refused():
    with pytest.raises(UserError, match="--workers=0"):
        places_for_workers(0)
