"""The time that a suite has, for suites on machines that are lent for minutes."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A moment after which nothing new is begun.

    Attributes:
      minutes: From the start; None sets no limit.
      start: Of the clock, `time.monotonic()`.
    """

    minutes: float | None
    start: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.remaining <= 0

    @property
    def remaining(self) -> float:
        """Seconds left, infinite without a limit."""
        if self.minutes is None:
            return float("inf")
        return 60 * self.minutes - (time.monotonic() - self.start)

    @property
    def note(self) -> str:
        """Why something was not measured."""
        return f"not run: {60 * (self.minutes or 0):.0f} s were over"
