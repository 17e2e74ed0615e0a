"""Runs on several hosts: the flags, and how the processes find each other."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from evonorm_jax.errors import UserError
from experiments.startup import INTERRUPTED

_SAY_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_GRACE_SECONDS = 120
_REMEDY = (
    "Start the same command on every host, with a port of process 0 that is free and open to the "
    "others; --join_timeout=SECONDS waits longer."
)
# Of the step that srun started: SLURM_NTASKS is also set in a batch script that runs alone.
_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def add_distributed_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a run on several hosts."""
    group = parser.add_argument_group(
        "several hosts",
        "TPU pods, Slurm and Open MPI need none of these, nor do hosts where "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set. Run the same "
        "command on every host, with a --workdir on storage that all of them share.",
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="0 to N - 1")
    group.add_argument(
        "--join_timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long to wait for the other hosts (default: %(default)s)",
    )


def join_hosts(arguments: argparse.Namespace) -> None:
    """Joins the other processes, where the flags, the environment or the cluster name any.

    Raises:
      UserError: A flag or a variable is wrong, or the others are not there in time.
    """
    address = arguments.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number(arguments.num_processes, "JAX_NUM_PROCESSES")
    process = _number(arguments.process_id, "JAX_PROCESS_ID")
    seconds = arguments.join_timeout
    if seconds < 1:
        raise UserError(f"--join_timeout={seconds}: wait for at least 1 second.")
    given = {
        "--coordinator_address": address,
        "--num_processes": processes,
        "--process_id": process,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if _on_cluster():
            with _waiting("the other processes of this cluster", seconds):
                _initialize(seconds)
        return
    if address is None or processes is None or process is None:
        raise UserError(
            f"{', '.join(missing)} is missing: a run on several hosts needs all three of "
            f"{', '.join(given)} (or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)."
        )
    if processes < 1:
        raise UserError(f"--num_processes={processes} must be at least 1.")
    if not 0 <= process < processes:
        raise UserError(
            f"--process_id={process} must be from 0 to {processes - 1} "
            f"(--num_processes={processes})."
        )
    host, port = parse_address(address)
    others = "1 other process" if processes == 2 else f"{processes - 1} other processes"
    if process:
        with _waiting(f"process 0 at {address}", seconds + 1):
            _reach(host, port, seconds)
    else:
        _check_free(port)
    with _waiting(f"{others} at {address}", seconds):
        _initialize(seconds, address, processes, process)


def parse_address(address: str) -> tuple[str, int]:
    """Reads HOST:PORT; an IPv6 address stands in brackets.

    >>> parse_address("10.0.0.1:1234"), parse_address("[::1]:80")
    (('10.0.0.1', 1234), ('::1', 80))

    Raises:
      UserError: It is something else.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    valid = name and not any(c.isspace() or c in "/[]" for c in name)
    valid = valid and (bracketed or ":" not in name)
    if not (valid and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise UserError(
            f"--coordinator_address={address}: it must be HOST:PORT with a port from 1 to 65535, "
            "such as 10.0.0.1:1234."
        )
    return name, int(port)


def has_tpu() -> bool:
    """Whether this host has TPU chips, found out without touching them."""
    return importlib.util.find_spec("libtpu") is not None and any(
        next(Path("/dev").glob(pattern), None) for pattern in ("accel*", "vfio/[0-9]*")
    )


def _initialize(seconds: int, *peers: str | int) -> None:
    """Joins the others; whoever calls it watches the time.

    JAX's own limit comes later, because it aborts the process with a stack trace.
    """
    try:
        jax.distributed.initialize(*peers, initialization_timeout=seconds + _GRACE_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(f"The processes cannot join: {reason} {_REMEDY}") from error


def _reach(host: str, port: int, seconds: float) -> None:
    """Waits until something listens at process 0; JAX itself would say nothing meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() + _RETRY_SECONDS > end:
                raise UserError(
                    f"--coordinator_address={host}:{port}: process 0 did not answer within "
                    f"{seconds} s ({error}). {_REMEDY}"
                ) from error
        time.sleep(_RETRY_SECONDS)


def _check_free(port: int) -> None:
    """Refuses a port that this process, which is process 0, cannot listen at; JAX would crash."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise UserError(
            f"--coordinator_address: process 0 cannot listen at port {port} ({error.strerror}). "
            "Name a free one, on every host the same."
        ) from error


@contextlib.contextmanager
def _waiting(for_whom: str, seconds: int) -> Iterator[None]:
    """Watches a `with` block, in which this thread may wait outside of Python.

    It says every few seconds what it waits for. It ends the process at the end of the time or at
    Ctrl-C; nothing has been begun by then.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)  # gets the number of a signal as soon as it comes
    started = time.monotonic()

    def watch() -> None:
        said = started
        while True:
            ready, _, _ = select.select([reader], [], [], 0.2)
            signals = os.read(reader, 64) if ready else None
            if signals == b"":  # the block has ended
                return
            if signals and signal.SIGINT in signals:
                _end("stopped by Ctrl-C.", INTERRUPTED)
            now = time.monotonic()
            if now - started > seconds:
                _end(f"{for_whom} did not join within {seconds} s. {_REMEDY}", 2)
            if now - said > _SAY_SECONDS:
                said = now
                waited = now - started
                print(f"Waiting for {for_whom}: {waited:.0f} s of {seconds} s.", flush=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _end(message: str, code: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).stem}: {message}\n".encode(errors="backslashreplace"))
    os._exit(code)


def _number(flag: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if flag is not None or not text:
        return flag
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{variable}={text!r} is not a number.") from None


def _on_cluster() -> bool:
    """Whether JAX finds its peers by itself: on a TPU VM, or among Slurm or Open MPI tasks."""
    return has_tpu() or max(_number(None, name) or 1 for name in _SIZES) > 1
