"""How the processes of several hosts find each other, and what is said where they do not."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from evonorm_jax.errors import UserError
from experiments import hosts, launch
from experiments.hosts import add_distributed_arguments
from tests.experiments.command_line import ROOT

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def calls(monkeypatch):
    """What JAX was asked to join; process 0 answers whoever asks."""
    calls = []
    monkeypatch.setattr(
        hosts.jax.distributed,
        "initialize",
        lambda *peers, initialization_timeout: calls.append(peers),
    )
    monkeypatch.setattr(hosts, "_reach", lambda host, port, seconds: calls.append((host, port)))
    for name in (*VARIABLES, *hosts._SIZES):
        monkeypatch.delenv(name, raising=False)
    return calls


def start(*flags):
    parser = argparse.ArgumentParser()
    add_distributed_arguments(parser)
    launch.start_jax(parser.parse_args(flags))


def test_hosts_are_joined_only_when_something_says_so(calls, monkeypatch):
    start()
    assert calls == []
    for name, value in zip(VARIABLES, ("10.0.0.1:1234", "4", "3"), strict=True):
        monkeypatch.setenv(name, value)
    start()
    assert calls == [("10.0.0.1", 1234), ("10.0.0.1:1234", 4, 3)]
    start("--process_id=2")
    assert calls[-1] == ("10.0.0.1:1234", 4, 2)


def test_slurm_tasks_find_each_other(calls, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")  # a batch script, before srun
    start()
    assert calls == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    start()
    assert calls == [()]


@pytest.mark.hostile
@pytest.mark.parametrize(
    "address",
    [
        "garbage",
        " ",
        ":1",
        "host:",
        "host:0",
        "host:99999",
        "host:x",
        "a b:1",
        "::1:80",
        "http://h:1",
        "host:1.5",
        "host:-1",
        "host:٣",
        "[::1:80",
    ],
)
def test_an_address_is_checked(address):
    for text in (address, f"{address}{'9' * 5000}"):
        with pytest.raises(UserError, match="it must be HOST:PORT with a port from 1 to 65535"):
            hosts.parse_address(text)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (["--process_id=0"], {}, "--coordinator_address, --num_processes is missing"),
        (["--num_processes=0", "--process_id=0"], {}, "--num_processes=0 must be at least 1"),
        (["--num_processes=2", "--process_id=2"], {}, "--process_id=2 must be from 0 to 1"),
        (["--num_processes=2", "--process_id=-1"], {}, "--process_id=-1 must be from 0 to 1"),
        (["--join_timeout=0"], {}, "--join_timeout=0: wait for at least 1 second"),
        ([], {"OMPI_COMM_WORLD_SIZE": "x"}, "OMPI_COMM_WORLD_SIZE='x' is not a number"),
        ([], {"SLURM_STEP_NUM_TASKS": "2(x3)"}, "SLURM_STEP_NUM_TASKS='2(x3)' is not a number"),
        ([], {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' is not a number"),
    ],
)
def test_flags_and_variables_are_checked(calls, monkeypatch, flags, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if any("num_processes" in flag for flag in flags):
        flags = [*flags, "--coordinator_address=10.0.0.1:1234"]
    with pytest.raises(UserError) as caught:
        start(*flags)
    assert message in str(caught.value)
    assert calls == []


@pytest.mark.hostile
def test_a_port_that_another_process_has_is_refused(calls):
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--coordinator_address={address}", "--num_processes=2"]
        with pytest.raises(UserError, match=r"process 0 cannot listen at port .*already in use"):
            start(*flags, "--process_id=0")
        assert calls == []
        hosts._check_free(free_port())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.hostile
def test_a_process_0_that_does_not_answer_is_waited_for(monkeypatch):
    monkeypatch.setattr(hosts, "_RETRY_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"process 0 did not answer within 0.05 s \(.*refused"):
        hosts._reach("127.0.0.1", free_port(), 0.05)
    with pytest.raises(UserError, match="process 0 did not answer within"):
        hosts._reach("no.such.host.invalid", 1234, 0.01)
    with socket.create_server(("127.0.0.1", 0)) as answering:
        hosts._reach("127.0.0.1", answering.getsockname()[1], 5)


@pytest.mark.hostile
def test_waiting_is_said_with_a_count(monkeypatch, capsys):
    monkeypatch.setattr(hosts, "_SAY_SECONDS", 0.05)
    with hosts._waiting("the others", 60):
        time.sleep(0.5)
    lines = capsys.readouterr().out.splitlines()
    assert "Waiting for the others: 0 s of 60 s." in lines
    assert signal.set_wakeup_fd(-1) == -1  # as before


# A handler that does nothing: the main thread sleeps on, as it would wait outside of Python.
WAITING = """
import signal, sys, threading, time
from experiments import hosts
signal.signal(signal.SIGINT, lambda *_: None)
sys.argv = ["train.py"]
with hosts._waiting("the others", {seconds}):
    {then}
    time.sleep(60)
"""


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("seconds", "then", "code", "message"),
    [
        (0.1, "", 2, "train: the others did not join within 0.1 s. Start the same command on"),
        (60, "signal.raise_signal(signal.SIGINT)", 130, "train: stopped by Ctrl-C."),
    ],
)
def test_the_end_of_waiting_is_one_line(seconds, then, code, message):
    done = subprocess.run(
        [sys.executable, "-c", WAITING.format(seconds=seconds, then=then)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
