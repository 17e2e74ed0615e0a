import subprocess

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.sweeps import slots
from evonorm_jax.sweeps.slots import Slot, find_slots, run_environment, visible_gpus


@pytest.fixture
def gpus(monkeypatch):
    """A host with four GPUs."""

    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 0, stdout="0\n1\n2\n3\n")

    monkeypatch.setattr(slots.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slots.subprocess, "run", run)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_one_run_to_a_gpu(gpus):
    assert find_slots() == [Slot(f"GPU {i}", {"CUDA_VISIBLE_DEVICES": str(i)}) for i in range(4)]
    assert [slot.name for slot in find_slots(2)] == ["GPU 0", "GPU 1"]


def test_only_the_gpus_that_are_visible_are_used(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8d1f")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in find_slots()] == ["2", "GPU-8d1f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_more_runs_than_gpus_share_their_memory(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    found = find_slots(6)
    assert [slot.name for slot in found] == ["GPU 0", "GPU 1"] * 3
    assert {slot.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in found} == {"0.300"}


def test_cores_and_tpus(monkeypatch):
    assert visible_gpus() == []  # JAX_PLATFORMS=cpu in the tests
    monkeypatch.setattr(slots, "_num_cores", lambda: 16)
    assert find_slots() == [Slot("CPU", {})] * 8
    assert len(find_slots(3)) == 3
    assert [slot.name for slot in find_slots(has_tpu=True)] == ["TPU"]
    monkeypatch.setattr(slots, "_num_cores", lambda: 1)
    assert len(find_slots()) == 1
    with pytest.raises(UserError, match="--jobs=0"):
        find_slots(0)


def test_a_run_is_alone_even_if_its_sweep_is_one_of_many_tasks(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    environment = run_environment(Slot("GPU 1", {"CUDA_VISIBLE_DEVICES": "1"}))
    assert "SLURM_STEP_NUM_TASKS" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"
    assert environment["JAX_PLATFORMS"] == "cpu"
