"""The runner with runs that tick instead of training: who runs what, and how it all ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evonorm_jax.run_lock import lock_run, try_lock
from tests.sweeps import fake_sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path):
    """Starts a fake sweep on `tmp_path`; what is left of it is killed at the end."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweeps.fake_sweep", str(tmp_path), *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def history(root, seed):
    """What a run has noted, without the process ids."""
    path = root / "bn_relu" / f"seed={seed}" / "history"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def run_pids(root):
    return {int(p.split()[1]) for f in root.rglob("history") for p in f.read_text().splitlines()}


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    """Whether the process runs; one that has ended but is not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_all_cells_run_once_and_finished_ones_are_skipped(tmp_path, start):
    code, out = finish(start())
    assert code == 0, out
    assert [history(tmp_path, seed) for seed in range(4)] == [["started", "finished"]] * 4
    assert out.count("finished   bn_relu/seed=") == 4
    code, out = finish(start("--cells=5"))
    assert code == 0, out
    assert [history(tmp_path, seed) for seed in range(5)] == [["started", "finished"]] * 5
    assert out.count("start ") == 1


def test_a_failure_is_reported_and_stops_nothing(tmp_path, start):
    code, out = finish(start("--fail=bn_relu/seed=1"))
    assert code == 1
    assert "bn_relu/seed=1 ended with exit code 1: this run was told to fail" in out
    assert [history(tmp_path, s)[-1] for s in (0, 2, 3)] == ["finished"] * 3
    code, out = finish(start())  # and is tried again
    assert code == 0, out
    assert history(tmp_path, 1) == ["started", "started", "finished"]


def test_two_sweeps_on_a_folder_share_the_cells(tmp_path, start):
    both = [start("--cells=6", "--ticks=10"), start("--cells=6", "--ticks=10")]
    ends = [finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    assert [history(tmp_path, seed) for seed in range(6)] == [["started", "finished"]] * 6
    assert re.search(r"elsewhere  bn_relu/seed=\d: process \d+ on ", ends[0][1] + ends[1][1])


@pytest.mark.hostile
def test_a_run_that_was_started_by_hand_keeps_its_cell(tmp_path, start):
    (cell,) = fake_sweep.cells(tmp_path, 1)
    with lock_run(cell.workdir):
        process = start("--cells=1")
        elsewhere = process.stdout.readline()
        assert elsewhere.startswith(f"elsewhere  {cell.name}: process {os.getpid()} on ")
        assert not history(tmp_path, 0)
    code, out = finish(process)
    assert code == 0, out
    assert history(tmp_path, 0) == ["started", "finished"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save(tmp_path, start, number):
    process = start("--ticks=100000")
    wait_until(lambda: len(list(tmp_path.rglob("ticks"))) == 2)
    process.send_signal(number)
    code, out = finish(process)
    assert code == 128 + number
    assert [history(tmp_path, seed) for seed in range(3)] == [["started", "saved"]] * 2 + [[]]
    assert out.count("stopped ") == 2
    assert not any(map(is_alive, run_pids(tmp_path)))


def test_a_second_signal_kills(tmp_path, start):
    process = start("--ticks=100000", "--stubborn")
    wait_until(lambda: len(list(tmp_path.rglob("ticks"))) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _ = finish(process)
    assert code == 130
    assert not any(map(is_alive, run_pids(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the runs on Linux alone")
def test_runs_do_not_outlive_a_killed_sweep_and_resume(tmp_path, start):
    process = start("--ticks=40")
    wait_until(lambda: len(list(tmp_path.rglob("ticks"))) == 2)
    process.kill()
    wait_until(lambda: not any(map(is_alive, run_pids(tmp_path))))
    assert [history(tmp_path, seed) for seed in range(2)] == [["started", "saved"]] * 2
    code, out = finish(start("--ticks=40"))
    assert code == 0, out
    assert out.count("resume ") == 2
    assert [history(tmp_path, s)[-1] for s in range(4)] == ["finished"] * 4


def test_a_run_that_outlives_its_sweep_keeps_its_cell(tmp_path, start):
    process = start("--cells=1", "--ticks=60", "--stubborn")
    wait_until(lambda: list(tmp_path.rglob("ticks")))
    process.kill()
    (cell,) = fake_sweep.cells(tmp_path, 1)
    assert try_lock(cell.workdir) is None
    code, out = finish(start("--cells=1", "--ticks=60"))  # waits for it
    assert code == 0, out
    assert history(tmp_path, 0) == ["started", "finished"]
