"""Traces a window of steps by `jax.profiler`, to be viewed with xprof or TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class ProfileWindow:
    """Traces steps `start` to `start + num_steps - 1` into `workdir/profile`.

    A context manager: a run that ends inside the window still writes its trace.

    Args:
      workdir: The run directory.
      start: First step of the window, counted from 1; step 1 compiles.
      num_steps: Length of the window; 0 traces nothing.
    """

    def __init__(self, workdir: Path, start: int, num_steps: int):
        self._directory = workdir / "profile"
        self._first, self._last = start, start + num_steps - 1
        self._tracing = False

    def before(self, step: int) -> None:
        """Opens the window where `step` is its first."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._directory))
            self._tracing = True

    def after(self, step: int, outputs: Any) -> None:
        """Closes the window where `step`, which computes `outputs`, is its last."""
        if self._tracing and step == self._last:
            jax.block_until_ready(outputs)  # steps run behind their dispatch
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False

    def __enter__(self) -> ProfileWindow:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()
