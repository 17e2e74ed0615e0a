import json
import os

import pytest

from evonorm_jax.benchmarks import machine
from evonorm_jax.errors import UserError


def test_the_environment_names_all_that_a_number_depends_on(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "123")
    found = machine.environment("here", quick=True)
    assert json.loads(json.dumps(found)) == found
    assert found["hardware"] == "here"
    assert found["quick"] is True
    assert found["cores"] >= 1
    assert found["devices"].endswith(" x cpu")
    assert found["variables"]["MALLOC_TOP_PAD_"] == "123"
    assert set(found["variables"]) == set(machine.VARIABLES)
    assert {"python", "jax", "flax", "numpy"} <= set(found["versions"])
    assert found["processor"]
    assert "commit" in found


def test_the_name_of_a_machine_without_accelerator_is_processor_and_cores(monkeypatch):
    monkeypatch.setattr(machine, "processor", lambda: "AMD EPYC 7B13")
    monkeypatch.setattr(machine, "num_cores", lambda: 4)
    assert machine.hardware_name() == "amd-epyc-7b13-4-cores"


def test_the_name_of_a_machine_with_accelerators_is_theirs(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "NVIDIA H200"

    monkeypatch.setattr(machine.jax, "devices", lambda: [Device()] * 8)
    monkeypatch.setattr(machine.jax, "device_count", lambda: 1)
    assert machine.hardware_name() == "nvidia-h200"
    monkeypatch.setattr(machine.jax, "device_count", lambda: 8)
    assert machine.hardware_name() == "8x-nvidia-h200"


@pytest.mark.parametrize("name", ["../elsewhere", "My Laptop", "a/b", ""])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="must be lower-case letters"):
        machine.check_name(name)


def test_a_good_name_stays():
    assert machine.check_name("nvidia-h200") == "nvidia-h200"


@pytest.mark.parametrize(("before", "inside"), [(None, "false"), ("true", "true")])
def test_no_preallocation_holds_inside_alone(monkeypatch, before, inside):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with machine.no_preallocation():
        assert os.environ[name] == inside
    assert os.environ.get(name) == before
