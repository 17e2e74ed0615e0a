"""What a person sees while something long goes on: in place on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import time
import types
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

_LIVE_SECONDS = 0.5


def format_duration(seconds: float) -> str:
    """Formats a duration to be short and readable.

    >>> format_duration(42.4), format_duration(754), format_duration(7384)
    ('42s', '12m34s', '2h03m')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class WaitLog:
    """Logs how far something has come that may take long; what is done in two seconds says nothing.

    Args:
      logger: Takes the lines.
      what: Is waited for, such as "Reading images of photos".
      total: Number of what is counted.
    """

    def __init__(self, logger: logging.Logger, what: str, total: int):
        self._logger, self._what, self._total = logger, what, total
        self._done = 0
        self._next = time.monotonic() + 2.0

    def add(self, number: int = 1) -> None:
        """Counts on, see `reach`."""
        self.reach(self._done + number)

    def reach(self, done: int) -> None:
        """Says how many are done; a line is logged every ten seconds."""
        self._done = done
        now = time.monotonic()
        if now >= self._next and self._done < self._total:
            self._next = now + 10.0
            self._logger.info("%s: %s of %s", self._what, f"{self._done:,}", f"{self._total:,}")


class LiveDisplay:
    """A part of the screen that is updated in place, below lines that stay; for a `with` block.

    Where the stream is no terminal there are plain lines alone, further apart.

    Args:
      stream: Where to show it.
      plain_seconds: Time between two updates where the stream is no terminal.
      wait: Whether the first update is put off by as long, too.
    """

    def __init__(self, stream: TextIO, *, plain_seconds: float, wait: bool = False):
        from rich.console import Console  # here, because training formats durations without it
        from rich.live import Live

        self._console = Console(file=stream, highlight=False)
        self.is_live = stream.isatty()
        # Refreshed by `show` alone: a thread of its own would make the forks of runs unsafe.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._interval = _LIVE_SECONDS if self.is_live else plain_seconds
        self._next = time.monotonic() + self._interval if wait else -float("inf")

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._live.stop()

    def is_due(self) -> bool:
        """Whether it is time for the next update; then the time to the one after it begins."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True

    def event(self, text: str) -> None:
        """Prints a line that stays; it is never broken where the stream is no terminal."""
        self._console.print(text, markup=False, soft_wrap=not self.is_live)

    def show(self, content: RenderableType) -> None:
        """Replaces what is updated in place; on a terminal alone."""
        self._live.update(content, refresh=True)
