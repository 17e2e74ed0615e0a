"""What a person sees while a sweep goes on: a table of its runs, and a line for each event."""

from __future__ import annotations

from typing import TextIO

from rich.table import Table

from evonorm_jax.display import LiveDisplay, format_duration
from evonorm_jax.sweeps.runner import CellState, SweepRunner

_PLAIN_SECONDS = 30.0  # between two plain lines about where the sweep stands


class LiveTable(LiveDisplay):
    """Events scroll by; below them, on a terminal, stand the runs that go on now.

    Args:
      stream: Where to show it.
    """

    def __init__(self, stream: TextIO):
        super().__init__(stream, plain_seconds=_PLAIN_SECONDS, wait=True)

    def update(self, runner: SweepRunner) -> None:
        """Shows where the sweep stands, if it is time to."""
        if not self.is_due():
            return
        if self.is_live:
            self.show(running_table(runner))
        elif runner.running:
            for row in running_rows(runner):
                self.event("running    " + "  ".join(cell for cell in row if cell))
            self.event(summary_line(runner))


def running_rows(runner: SweepRunner) -> list[tuple[str, str, str, str]]:
    """Returns run, step, main metric and time left of every run that goes on."""
    rows = []
    for run in runner.running:
        cell, status = run.cell, run.cell.status(run.started)
        num_steps = cell.num_steps()
        step = value = left = ""
        if num_steps is not None:
            step = f"{status.step}/{num_steps}"
            if status.seconds_per_step:
                seconds = (num_steps - status.step) * status.seconds_per_step
                left = f"{format_duration(seconds)} left"
        if status.value is not None:
            value = cell.metrics().main.format(status.value)
        if not step:
            step = "starting" if run.where else "waits for room"
        rows.append((cell.name, step, value, left))
    return rows


def summary_line(runner: SweepRunner) -> str:
    """Says how many cells stand where, and about how long the rest takes."""
    counts = [
        f"{count} {state.value}"
        for state in CellState
        if state != CellState.FINISHED and (count := runner.count(state))
    ]
    line = f"{runner.count(CellState.FINISHED)} of {len(runner.cells)} finished"
    line = ", ".join([line, *counts])
    rest = runner.count(CellState.WAITING) + runner.count(CellState.RUNNING) / 2
    if rest and runner.run_seconds:
        mean = sum(runner.run_seconds) / len(runner.run_seconds)
        line += f", about {format_duration(rest * mean / len(runner.places))} left"
    return line


def running_table(runner: SweepRunner) -> Table:
    """Returns the table that is updated in place."""
    heading = runner.running[0].cell.metrics().main.heading if runner.running else ""
    table = Table("run", "step", heading, "left", caption=summary_line(runner), box=None)
    for row in running_rows(runner):
        table.add_row(*row)
    return table
