"""What a person sees while a sweep goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from evonorm_jax.sweeps.runner import State, SweepRunner
from evonorm_jax.training.progress import format_duration

_PLAIN_SECONDS = 30.0  # between two plain lines about where the sweep stands
_LIVE_SECONDS = 0.5


class LiveDisplay:
    """Events scroll by; below them, on a terminal, the runs that go on now.

    Args:
      stream: where to show it; updated in place if it is a terminal.
    """

    def __init__(self, stream: TextIO):
        self._console = Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
        # Refreshed by `update` alone: a thread of its own would make the forks of the runs unsafe.
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if stream.isatty()
            else None
        )
        self._next = time.monotonic() + self._interval

    def __enter__(self) -> LiveDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def _interval(self) -> float:
        return _PLAIN_SECONDS if self._live is None else _LIVE_SECONDS

    def event(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False)

    def update(self, runner: SweepRunner) -> None:
        """Shows where the sweep stands, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        if self._live is not None:
            self._live.update(running_table(runner), refresh=True)
        elif runner.running:
            for row in running_rows(runner):
                self.event("running    " + "  ".join(cell for cell in row if cell))
            self.event(summary_line(runner))


def running_rows(runner: SweepRunner) -> list[tuple[str, str, str, str]]:
    """Run, step, accuracy and time left of every run that goes on."""
    rows = []
    for process in runner.running:
        progress, num_steps = process.cell.progress(process.started), process.cell.num_steps()
        step = accuracy = left = ""
        if num_steps is not None:
            step = f"{progress.step}/{num_steps}"
            if progress.seconds_per_step:
                seconds = (num_steps - progress.step) * progress.seconds_per_step
                left = f"{format_duration(seconds)} left"
        if progress.top1 is not None:
            accuracy = f"{100 * progress.top1:.2f} %"
        rows.append((process.cell.name, step or "starting", accuracy, left))
    return rows


def summary_line(runner: SweepRunner) -> str:
    """How many cells stand where, and about how long the rest takes."""
    counts = [
        f"{count} {state.value}"
        for state in State
        if state != State.FINISHED and (count := runner.count(state))
    ]
    line = f"{runner.count(State.FINISHED)} of {len(runner.cells)} finished"
    line = ", ".join([line, *counts])
    rest = runner.count(State.WAITING) + runner.count(State.RUNNING) / 2
    if rest and runner.run_seconds:
        mean = sum(runner.run_seconds) / len(runner.run_seconds)
        line += f", about {format_duration(rest * mean / len(runner.slots))} left"
    return line


def running_table(runner: SweepRunner) -> Table:
    """The live table."""
    table = Table("run", "step", "accuracy", "left", caption=summary_line(runner), box=None)
    for row in running_rows(runner):
        table.add_row(*row)
    return table
