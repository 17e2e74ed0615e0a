"""Runs what a sweep still lacks, several cells at a time, until every cell is settled."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Protocol

from evonorm_jax.sweeps.cells import Cell
from evonorm_jax.sweeps.process import RunProcess, try_lock
from evonorm_jax.sweeps.slots import Slot, run_environment

_POLL_SECONDS = 0.2
_ELSEWHERE_SECONDS = 2.0  # between two looks at cells that another sweep is running
_TAIL_LINES = 12
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class State(enum.Enum):
    """Where a cell stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "running elsewhere"  # another sweep on the same folder holds its lock
    FINISHED = "finished"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that ended without a summary.

    Attributes:
      cell: which.
      exit_code: of its process; negative for a signal.
      tail: the last lines that it printed.
    """

    cell: Cell
    exit_code: int
    tail: str


class Display(Protocol):
    """Shows a sweep: events as they happen, and where it stands in between."""

    def event(self, text: str) -> None: ...

    def update(self, runner: SweepRunner) -> None: ...


class SweepRunner:
    """Runs the cells of a sweep in child processes.

    Finished cells are skipped, started ones are resumed by the run itself. A cell is run only under
    its lock, so several runners share a folder: each takes what is free, and waits for what another
    one runs, to take it over if that one dies.

    Args:
      cells: in the order in which to run them.
      slots: one run at a time in each.
      command: gives the command of a cell.
      display: told of everything.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        slots: Sequence[Slot],
        command: Callable[[Cell], Sequence[str]],
        display: Display,
    ):
        self.cells = list(cells)
        self.states = {
            cell.name: State.FINISHED if cell.is_finished() else State.WAITING for cell in cells
        }
        self.running: list[RunProcess] = []
        self.failures: list[Failure] = []
        self.run_seconds: list[float] = []  # of the runs that this runner has seen to their end
        self.slots = list(slots)
        self.stop_signal: int | None = None
        self._num_signals = 0
        self._free_slots = list(slots)
        self._command = command
        self._display = display
        self._look_elsewhere_at = 0.0

    def count(self, state: State) -> int:
        """How many cells stand there."""
        return Counter(self.states.values())[state]

    def run(self) -> bool:
        """Runs until every cell is finished, failed, or a signal has asked to stop.

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
                self._display.update(self)
                if not self.running and (self.stop_signal is not None or not self._pending()):
                    break
                time.sleep(_POLL_SECONDS)
        return self.count(State.FINISHED) == len(self.cells)

    def _pending(self) -> bool:
        return any(s in (State.WAITING, State.ELSEWHERE) for s in self.states.values())

    def _start(self) -> None:
        """Fills the free slots with cells that nobody runs."""
        look_elsewhere = time.monotonic() >= self._look_elsewhere_at
        if look_elsewhere:
            self._look_elsewhere_at = time.monotonic() + _ELSEWHERE_SECONDS
        for cell in self.cells:
            if not self._free_slots:
                return
            state = self.states[cell.name]
            if state == State.WAITING or (state == State.ELSEWHERE and look_elsewhere):
                self._try_start(cell)

    def _try_start(self, cell: Cell) -> None:
        lock = try_lock(cell.lock)
        if lock is None:
            if self.states[cell.name] == State.WAITING:
                self._display.event(f"elsewhere  {cell.name}: another sweep is running it")
            self.states[cell.name] = State.ELSEWHERE
            return
        if cell.is_finished():  # in the meantime, by another sweep
            os.close(lock)
            self.states[cell.name] = State.FINISHED
            return
        verb = "resume" if cell.is_started() else "start"
        slot = self._free_slots.pop(0)
        process = RunProcess(cell, self._command(cell), run_environment(slot), lock, slot)
        self.running.append(process)
        self.states[cell.name] = State.RUNNING
        self._display.event(f"{verb:9}  {cell.name} on {slot.name}")

    def _reap(self) -> None:
        """Settles the cells whose runs have ended."""
        for process in list(self.running):
            code = process.poll()
            if code is None:
                continue
            self.running.remove(process)
            self._free_slots.append(process.slot)
            cell = process.cell
            if cell.is_finished():
                self.states[cell.name] = State.FINISHED
                self.run_seconds.append(process.seconds)
                top1 = cell.final_top1()
                accuracy = "" if top1 is None else f"  {100 * top1:.2f} %"
                self._display.event(f"finished   {cell.name}{accuracy}  {process.seconds:.0f} s")
            elif self.stop_signal is not None:
                self.states[cell.name] = State.WAITING
                self._display.event(f"stopped    {cell.name} at step {cell.progress().step}")
            else:
                self.states[cell.name] = State.FAILED
                self.failures.append(Failure(cell, code, process.log_tail(_TAIL_LINES)))
                self._display.event(f"failed     {cell.name} (exit code {code}), log {cell.log}")

    def _stop_runs(self) -> None:
        """Tells each run once to save and end; to end at once, where asked again."""
        for process in self.running:
            if self._num_signals > 1:
                process.kill()
            elif not process.stopping:
                process.stop()

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
            for process in self.running:  # an exception in the loop above: leave nothing behind
                process.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = number
        self._num_signals += 1
