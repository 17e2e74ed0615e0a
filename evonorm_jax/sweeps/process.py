"""One run as a child process: holds the lock of its folder, and does not outlive the sweep.

The lock (`run_lock.py`) is taken by the sweep and inherited by the run, so what a killed sweep has
left behind is not started a second time. On Linux the kernel also tells the run to stop
(SIGTERM, which saves a checkpoint) when the sweep dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from evonorm_jax.placement import Place, run_environment
from evonorm_jax.run_lock import handed_on
from evonorm_jax.sweeps.cells import Cell
from evonorm_jax.sweeps.run import Outcome, RunEnd

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Loaded here because the child may only call what is ready between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TAIL_LINES = 12


class LocalRuns:
    """Runs on this machine.

    Args:
      places: Where they go on, one at a time at each place.
      arguments: Gives the arguments that Python runs a cell with.
    """

    def __init__(self, places: Sequence[Place], arguments: Callable[[Cell], Sequence[str]]):
        self.places = list(places)
        self._arguments = arguments

    def start(self, cell: Cell, lock: int, place: Place) -> RunProcess:
        """Starts a run, see `Runs.start`."""
        return RunProcess(cell, self._arguments(cell), lock, place)


class RunProcess:
    """A run that goes on in a process of its own; what it prints goes to the log of its cell.

    Args:
      cell: Cell of the run.
      arguments: Arguments that Python runs it with.
      lock: Descriptor of the lock of its run directory, from `try_lock`; this object owns it from
        here on.
      place: Where the run goes on.
    """

    def __init__(self, cell: Cell, arguments: Sequence[str], lock: int, place: Place):
        self.cell = cell
        self.place = place
        self.where = place.name
        self.started = time.time()
        self.stopping = False
        self._lock = lock
        self._log_start = cell.log.stat().st_size if cell.log.exists() else 0
        parent = os.getpid()

        def die_with_parent() -> None:
            if _LIBC is not None:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:  # it died before the kernel was told
                    os._exit(1)

        with cell.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env=run_environment(place) | handed_on(lock),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                # A session of its own: Ctrl-C reaches the sweep alone, which then stops the runs.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def poll(self) -> RunEnd | None:
        """Returns how it has ended, or None while it goes on."""
        code = self._process.poll()
        if code is None:
            return None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self.cell.is_finished():
            return RunEnd(Outcome.FINISHED)
        return RunEnd(Outcome.FAILED, f"exit code {code}", self._log_tail())

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.started

    def stop(self) -> None:
        """Asks the run to save a checkpoint and end."""
        self.stopping = True
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the run at once; its next start goes on from the last checkpoint."""
        self._process.kill()

    def _log_tail(self) -> str:
        """Returns the last lines that this start of the cell has printed."""
        with self.cell.log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-_TAIL_LINES:])
