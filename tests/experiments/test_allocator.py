import os
import subprocess
import sys

import pytest

from experiments import allocator
from tests.experiments.command_line import ROOT

CPU = {"JAX_PLATFORMS": "cpu"}

glibc = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="not glibc"
)


@glibc
def test_a_process_on_the_cpu_starts_anew_once_with_the_same_arguments():
    code = (
        "import os, sys; from experiments.allocator import tune_allocator; print('start');"
        "tune_allocator(); print(os.environ['MALLOC_TOP_PAD_'], sys.argv[1:], 'jax' in sys.modules)"
    )
    plain = {k: v for k, v in os.environ.items() if k not in allocator.SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code, "--flag", "a b"],
        cwd=ROOT,
        env=plain | CPU,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"{allocator.SETTINGS['MALLOC_TOP_PAD_']} ['--flag', 'a b'] False"
    assert done.stdout.splitlines() == ["start", "start", expected]


@glibc
def test_what_the_user_has_set_stays():
    assert allocator.wants_tuning(CPU)
    for name in allocator.SETTINGS:
        assert not allocator.wants_tuning(CPU | {name: "1"})
    assert not allocator.wants_tuning(CPU | allocator.SETTINGS)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.os, "confstr_names", {"CS_PATH": 0}, raising=False)
    assert not allocator.wants_tuning(CPU)


@pytest.mark.parametrize(
    ("platforms", "expected"), [("cpu", True), ("cuda", False), ("cuda,cpu", False), ("tpu", False)]
)
def test_the_platform_that_is_asked_for_decides(platforms, expected):
    assert allocator.computes_on_cpu({"JAX_PLATFORMS": platforms}) is expected


def test_without_a_wish_the_devices_of_the_machine_decide(monkeypatch, tmp_path):
    monkeypatch.setattr(allocator, "Path", lambda _: tmp_path)
    assert allocator.computes_on_cpu({})
    (tmp_path / "nvidia0").touch()
    assert not allocator.computes_on_cpu({})
