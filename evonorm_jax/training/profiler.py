"""A window of steps traced by `jax.profiler`, to be viewed with xprof or TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


class ProfileWindow:
    """Traces steps `start` to `start + steps - 1` into `workdir/profile`; 0 steps trace nothing."""

    def __init__(self, workdir: Path, start: int, steps: int):
        self._directory = workdir / "profile"
        self._first, self._last = start, start + steps - 1
        self._tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Surrounds the dispatch of one step."""
        if step == self._first and self._last >= self._first:
            jax.profiler.start_trace(str(self._directory))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if self._tracing and step == self._last:
            # Steps run behind their dispatch: wait for all that is under way before closing.
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._tracing = False
