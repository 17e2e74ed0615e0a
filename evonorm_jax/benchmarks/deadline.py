"""The time limit of a suite, for machines that are lent for minutes."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A moment after which nothing new is begun.

    Attributes:
      minutes: Minutes from the start to that moment; None sets no limit.
      start: Value of `time.monotonic()` at the start, in seconds.
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
        """The reason, for a report, that something was not measured."""
        return f"not run: {60 * (self.minutes or 0):.0f} s were over"
