"""One process at a time writes into a run directory, and whoever comes second is told who."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evonorm_jax import run_lock
from evonorm_jax.errors import UserError

pytestmark = pytest.mark.hostile

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, pathlib, evonorm_jax.run_lock as run_lock
with run_lock.lock_run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder, **options):
    """A process that holds the lock until its stdin is closed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, **pipes, **options
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_free_after_its_process(tmp_path):
    lock = run_lock.try_lock(tmp_path / "new" / "run")
    assert run_lock.try_lock(tmp_path / "new" / "run") is None
    os.close(lock)
    again = run_lock.try_lock(tmp_path / "new" / "run")
    assert again is not None
    os.close(again)


def test_the_second_is_told_who_the_first_is_and_follows_a_killed_one(tmp_path):
    process = hold(tmp_path)
    who = f"process {process.pid} on {socket.gethostname()}, since 2"
    with pytest.raises(UserError) as error, run_lock.lock_run(tmp_path):
        pass
    assert f"{tmp_path} is in use: {who}" in str(error.value)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with run_lock.lock_run(tmp_path):
        assert run_lock.owner(tmp_path).startswith(f"process {os.getpid()} on ")


def test_a_lock_that_is_handed_on_outlives_its_giver(tmp_path):
    lock = run_lock.try_lock(tmp_path)
    environment = os.environ | run_lock.handed_on(lock)
    process = hold(tmp_path, pass_fds=(lock,), env=environment)
    os.close(lock)  # as if the sweep had died
    assert run_lock.try_lock(tmp_path) is None
    assert run_lock.owner(tmp_path).startswith(f"process {process.pid} on ")
    process.communicate()
    with run_lock.lock_run(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "garbage", "987654", "0"])
def test_what_is_handed_on_must_be_the_lock_of_this_folder(tmp_path, monkeypatch, text):
    monkeypatch.setenv("EVONORM_JAX_RUN_LOCK", text)
    with run_lock.lock_run(tmp_path):
        assert run_lock.try_lock(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"pid": 1}', "[" * 100_000])
def test_who_holds_it_may_be_unknown(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    assert run_lock.owner(tmp_path) == "another process"


def test_a_file_system_without_locks_is_one_message(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\).*-o flock"):
        run_lock.try_lock(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_lock.try_lock(tmp_path / "file" / "run")
