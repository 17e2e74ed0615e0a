"""What a launcher's process does first; imports nothing heavy, because Ctrl-C may come any time.

`python -m experiments.NAME` imports the package `experiments` first, and that calls
`prepare_process`, seconds before JAX is imported and the launcher itself begins.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def is_launcher() -> bool:
    """Whether Python is just importing the package to run a launcher of it."""
    return sys.argv[:1] == ["-m"]  # for so long; then it is the path of the launcher


def prepare_process() -> None:
    """Opens what the shell has closed of the three streams; lets Ctrl-C end this in one line."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # `>&-`: else the next file that is opened would be stdout
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def start_anew(environment: dict[str, str]) -> None:
    """Starts this process anew; Ctrl-C waits until the new one is prepared for it."""
    sys.stdout.flush()
    if signal.getsignal(signal.SIGINT) is _end:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def raise_at_interrupt() -> None:
    """Lets Ctrl-C raise `KeyboardInterrupt` from now on, as it does in any Python."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    # Not an exception: an import may catch it, or turn it into another one.
    with contextlib.suppress(OSError):
        os.write(2, b"Stopped by Ctrl-C before anything had begun.\n")
    os._exit(INTERRUPTED)
