"""What a person sees while a search goes on: live lines on a terminal, plain ones elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from rich.text import Text

from evonorm_jax.display import LiveDisplay, format_duration
from evonorm_jax.search.evolution.search_state import Search

_PLAIN_SECONDS = 10.0


class SearchDisplay(LiveDisplay):
    """Shows where a search stands, in a `with` block.

    Args:
      stream: Where to show it; updated in place if it is a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, plain_seconds=_PLAIN_SECONDS)
        self._start: tuple[float, int, int] | None = None
        self._shown: list[str] = []
        self._front = (0, 0)

    def update(self, search: Search, deaths: int) -> None:
        """Shows the search, if it is time to."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, num_evaluated(search), search.num_scored)
        if not self.is_due():
            return
        lines = [self._standing(search, now), rejections_line(search)]
        if deaths:
            lines.append(f"{deaths} worker(s) died and were replaced")
        if self.is_live:
            self.show(Text("\n".join(lines)))
        elif lines != self._shown:
            self.event("  ".join(filter(None, lines)))
            self._shown = lines

    def _standing(self, search: Search, now: float) -> str:
        assert self._start is not None
        started, evaluated_before, scored_before = self._start
        seconds = now - started
        evaluated = num_evaluated(search) - evaluated_before
        parts = [summary_line(search, self._front_size(search))]
        if search.pending:  # so that nobody suspects a fault while the first one compiles
            parts.append(f"evaluating {len(search.pending)}")
        if evaluated and seconds > 0:
            parts.append(f"{3600 * evaluated / seconds:,.0f}/h")
        left = []
        for limit, count, before in (
            (search.config.max_candidates, num_evaluated(search), evaluated_before),
            (search.config.max_scored, search.num_scored, scored_before),
        ):
            if limit is not None and count > before:
                left.append(max(0, limit - count) * seconds / (count - before))
        if left:
            parts.append(f"{format_duration(min(left))} left")
        return "  ".join(parts)

    def _front_size(self, search: Search) -> int:
        if self._front[0] != search.num_scored:  # it takes 0.1 s for 10,000 members
            self._front = (search.num_scored, len(search.front()))
        return self._front[1]


def num_evaluated(search: Search) -> int:
    """Returns the number of candidates that have a result."""
    return search.num_scored + search.rejections.total()


def summary_line(search: Search, front_size: int) -> str:
    """Writes how far the search is, and the best so far."""
    config = search.config
    evaluated = f"evaluated {num_evaluated(search):,}"
    evaluated += f" of {config.max_candidates:,}" if config.max_candidates else ""
    scored = f"scored {search.num_scored:,}"
    scored += f" of {config.max_scored:,}" if config.max_scored else ""
    parts = [evaluated, scored]
    if search.num_scored:
        best = search.best
        parts += [f"best {best.mean:.2f} % (candidate {best.id})", f"Pareto front {front_size}"]
    return "  ".join(parts)


def rejections_line(search: Search) -> str:
    """Writes how many were rejected for which reason, most first."""
    counts = (f"{reason} {count:,}" for reason, count in search.rejections.most_common())
    return f"rejected: {', '.join(counts)}" if search.rejections else ""
