"""Processes that a suite starts, none of which outlives it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def child_processes(grace: float) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Gives a function that starts processes, and ends them with the block, however that ends.

    Inside, SIGTERM and SIGHUP raise `SystemExit`. By default they would end this process alone, and
    what it has started would go on.

    Args:
      grace: Seconds that the processes have between the request to end (SIGTERM) and the kill.

    Yields:
      A function `(command, env=None)` that returns the `subprocess.Popen` of a new process.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start_process(
        command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, env=env))
        return started[-1]

    # What is ignored stays so: SIGHUP under nohup.
    heard = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _exit) for number in heard}
    try:
        yield start_process
    finally:
        for number, handler in previous.items():  # a second one ends this at once
            signal.signal(number, handler)
        _end(started, grace)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
