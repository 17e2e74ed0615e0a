"""What a sweep knows of a run that goes on, wherever that is."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from evonorm_jax.placement import Place
from evonorm_jax.sweeps.cells import Cell


class Outcome(enum.Enum):
    """How a run has ended."""

    FINISHED = "finished"
    FAILED = "failed"  # without a summary
    ELSEWHERE = "elsewhere"  # it never began: another process has the lock of its folder
    LOST = "lost"  # with the machine that it was on


class RunEnd(NamedTuple):
    """The end of a run.

    Attributes:
      outcome: How it has ended.
      how: What a person is told of it, such as "exit code 2"; who has the lock, if it is elsewhere.
      tail: Last lines that the run printed.
    """

    outcome: Outcome
    how: str = ""
    tail: str = ""


class Run(Protocol):
    """A run that goes on.

    Attributes:
      cell: Cell of the run.
      place: The place that it takes.
      where: Name of the place for people; empty while it waits for one.
      started: Time of its start, in seconds since 1970, as the rows of `metrics.jsonl` have it.
      stopping: Whether it was asked to end.
    """

    cell: Cell
    place: Place
    where: str
    started: float
    stopping: bool

    @property
    def seconds(self) -> float:
        """Seconds since the start."""

    def poll(self) -> RunEnd | None:
        """Returns how it has ended, or None while it goes on."""

    def stop(self) -> None:
        """Asks the run to save a checkpoint and end."""

    def kill(self) -> None:
        """Ends the run at once; its next start goes on from the last checkpoint."""


class Runs(Protocol):
    """Starts runs.

    Attributes:
      places: Where runs go on, one at a time at each place.
    """

    places: list[Place]

    def start(self, cell: Cell, lock: int, place: Place) -> Run:
        """Starts a run.

        Args:
          cell: Cell of the run.
          lock: Descriptor of the lock of its run directory, from `try_lock`; it is the run's from
            here on.
          place: One of `places`, at which no other run goes on.
        """
