"""Runs what a sweep still lacks, several cells at a time, until every cell is settled."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol

from evonorm_jax.run_lock import owner, try_lock
from evonorm_jax.sweeps.cells import Cell
from evonorm_jax.sweeps.run import Outcome, Run, RunEnd, Runs

_POLL_SECONDS = 0.2
_ELSEWHERE_SECONDS = 2.0  # between two looks at cells that another sweep is running
_MAX_LOSSES = 3  # of one cell, with the machines that it was on
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CellState(enum.Enum):
    """Where a cell stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "running elsewhere"  # another sweep or run holds its lock
    FINISHED = "finished"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that ended without a summary.

    Attributes:
      cell: Cell of the run.
      how: How it ended, such as "exit code 2"; the code is negative for a signal.
      tail: Last lines that the run printed.
    """

    cell: Cell
    how: str
    tail: str


class SweepListener(Protocol):
    """Is told of events as they happen, and where the sweep stands in between."""

    def event(self, text: str) -> None:
        """Takes the line about an event."""

    def update(self, runner: SweepRunner) -> None:
        """Called several times a second."""


class SweepRunner:
    """Runs the cells of a sweep, here or on a cluster.

    Finished cells are skipped, started ones are resumed by the run itself. A cell is run only under
    its lock, so several runners share a folder: each takes what is free, and waits for what another
    one runs, to take it over if that one dies.

    Args:
      cells: Cells in the order in which to run them.
      runs: Starts their runs, as many at a time as it has places.
      listener: Is told of everything.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        runs: Runs,
        listener: SweepListener,
    ):
        self.cells = list(cells)
        self.states = {
            cell.name: CellState.FINISHED if cell.is_finished() else CellState.WAITING
            for cell in cells
        }
        self.running: list[Run] = []
        self.failures: list[Failure] = []
        self.run_seconds: list[float] = []  # of the runs that this runner has seen to their end
        self.places = list(runs.places)
        self.stop_signal: int | None = None
        self._num_signals = 0
        self._free_places = list(runs.places)
        self._runs = runs
        self._verbs: dict[str, str] = {}  # of the running cells whose start is yet to be told
        self._losses: Counter[str] = Counter()
        self._listener = listener
        self._look_elsewhere_at = 0.0

    def count(self, state: CellState) -> int:
        """Returns how many cells stand there."""
        return Counter(self.states.values())[state]

    def run(self) -> bool:
        """Runs until every cell is finished or failed, or a signal asks to stop.

        The first SIGINT, SIGTERM or SIGHUP lets the runs save and end, the second one kills them.

        Returns:
          Whether all cells are finished.
        """
        with self._signals():
            while True:
                self._reap()
                if self.stop_signal is None:
                    self._start()
                else:
                    self._stop_runs()
                self._listener.update(self)
                if not self.running and (self.stop_signal is not None or not self._pending()):
                    break
                time.sleep(_POLL_SECONDS)
        return self.count(CellState.FINISHED) == len(self.cells)

    def _pending(self) -> bool:
        return any(s in (CellState.WAITING, CellState.ELSEWHERE) for s in self.states.values())

    def _start(self) -> None:
        """Fills the free places with cells that nobody runs."""
        look_elsewhere = time.monotonic() >= self._look_elsewhere_at
        if look_elsewhere:
            self._look_elsewhere_at = time.monotonic() + _ELSEWHERE_SECONDS
        for cell in self.cells:
            if not self._free_places:
                return
            state = self.states[cell.name]
            if state == CellState.WAITING or (state == CellState.ELSEWHERE and look_elsewhere):
                self._try_start(cell)

    def _try_start(self, cell: Cell) -> None:
        lock = try_lock(cell.workdir)
        if lock is None:
            if self.states[cell.name] == CellState.WAITING:
                self._listener.event(f"elsewhere  {cell.name}: {owner(cell.workdir)}")
            self.states[cell.name] = CellState.ELSEWHERE
            return
        if cell.is_finished():  # in the meantime, by another sweep
            os.close(lock)
            self.states[cell.name] = CellState.FINISHED
            return
        place = self._free_places.pop(0)
        self._verbs[cell.name] = "resume" if cell.is_started() else "start"
        run = self._runs.start(cell, lock, place)
        self.running.append(run)
        self.states[cell.name] = CellState.RUNNING
        self._tell_start(run)

    def _tell_start(self, run: Run) -> None:
        """Tells that a run has begun, once; on a cluster it may wait for a place before."""
        if run.where and (verb := self._verbs.pop(run.cell.name, None)):
            self._listener.event(f"{verb:9}  {run.cell.name} on {run.where}")

    def _reap(self) -> None:
        """Settles the cells whose runs have ended."""
        for run in list(self.running):
            end = run.poll()
            self._tell_start(run)
            if end is not None:
                self.running.remove(run)
                self._free_places.append(run.place)
                self._verbs.pop(run.cell.name, None)
                self._settle(run, end)

    def _settle(self, run: Run, end: RunEnd) -> None:
        cell = run.cell
        if end.outcome == Outcome.FINISHED:
            state = CellState.FINISHED
            self.run_seconds.append(run.seconds)
            parts = (f"finished   {cell.name}", cell.final_value(), f"{run.seconds:.0f} s")
            text = "  ".join(filter(None, parts))
        elif end.outcome == Outcome.ELSEWHERE:
            state, text = CellState.ELSEWHERE, f"elsewhere  {cell.name}: {end.how}"
        elif self.stop_signal is not None:
            state = CellState.WAITING
            text = f"stopped    {cell.name} at step {cell.status().step}"
        elif end.outcome == Outcome.LOST and self._losses[cell.name] + 1 < _MAX_LOSSES:
            self._losses[cell.name] += 1
            state, text = CellState.WAITING, f"lost       {cell.name}: {end.how}"
        else:
            state = CellState.FAILED
            self.failures.append(Failure(cell, end.how, end.tail))
            text = f"failed     {cell.name} ({end.how}), log {cell.log}"
        self.states[cell.name] = state
        self._listener.event(text)

    def _stop_runs(self) -> None:
        """First signal: SIGTERM to each run, which saves a checkpoint. Second signal: SIGKILL."""
        for run in self.running:
            if self._num_signals > 1:
                run.kill()
            elif not run.stopping:
                run.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        # What is ignored stays so: SIGHUP under nohup, SIGINT of a background job.
        heard = [n for n in _STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._on_signal) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for run in self.running:  # an exception in the loop above: leave nothing behind
                run.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = number
        self._num_signals += 1
