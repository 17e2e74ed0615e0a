"""What a person sees while a run goes on: epoch, loss, images per second, time left."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TextIO

from evonorm_jax.display import format_duration


class Progress:
    """Reports a run: one line that updates on a terminal, plain lines elsewhere.

    Speed is that of training alone: `pause` leaves the time of evaluation and saving out, and the
    first step, which compiles, does not count.

    Args:
      num_steps: Steps of the whole run.
      steps_per_epoch: Steps of one pass over the training set.
      images_per_step: Images of one step, over all devices.
      stream: Where to print; None, on every process but the first, prints nothing.
      min_seconds: Seconds that plain lines are apart at least.
    """

    def __init__(
        self,
        num_steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        stream: TextIO | None = sys.stdout,
        min_seconds: float = 10.0,
    ):
        self._num_steps = num_steps
        self._steps_per_epoch = steps_per_epoch
        self._images_per_step = images_per_step
        self._stream = stream
        self._interactive = stream is not None and stream.isatty()
        self._min_seconds = min_seconds
        self._last_line = -float("inf")
        self._has_evaluated = False
        self._open_line = False
        self._mark: tuple[int, float] | None = None  # step and time where the clock last started
        self._seconds = 0.0
        self._steps = 0

    def start(self, step: int) -> None:
        """Starts the clock after `step` updates."""
        self._mark = (step, time.perf_counter())

    def pause(self, step: int) -> None:
        """Stops the clock after `step` updates, for evaluation or saving."""
        if self._mark is not None:
            self._steps += step - self._mark[0]
            self._seconds += time.perf_counter() - self._mark[1]
            self._mark = None

    @property
    def seconds(self) -> float:
        """Seconds spent training since this object was made, without the pauses."""
        return self._seconds + (time.perf_counter() - self._mark[1] if self._mark else 0.0)

    def images_per_second(self, step: int) -> float:
        """Returns the mean speed of training so far; 0 before anything was timed."""
        steps = self._steps + (step - self._mark[0] if self._mark else 0)
        return steps * self._images_per_step / self.seconds if steps else 0.0

    def update(self, step: int, metrics: str) -> None:
        """Shows where training is; plain lines are thinned to one in `min_seconds`.

        Args:
          step: Updates made.
          metrics: What else to show, formatted.
        """
        now = time.perf_counter()
        if not self._interactive and now - self._last_line < self._min_seconds:
            return
        self._last_line = now
        speed = self.images_per_second(step)
        left = (self._num_steps - step) * self._images_per_step / speed if speed else None
        epoch, num_epochs = step / self._steps_per_epoch, self._num_steps / self._steps_per_epoch
        parts = [
            f"step {step}/{self._num_steps}",
            f"epoch {epoch:.1f}/{num_epochs:.1f}",
            metrics,
        ]
        if left is not None:
            parts += [f"{speed:,.0f} images/s", f"{format_duration(left)} left"]
        self._print("  ".join(filter(None, parts)), temporary=True)

    def wait(self, text: str) -> None:
        """Says what is waited for; on a terminal, until there is something else to say."""
        self._print(text, temporary=True)

    def evaluated(self, done: int, total: int | None) -> None:
        """Shows how far an evaluation is; plain lines come at the first and then in `min_seconds`.

        Args:
          done: Images evaluated.
          total: Images of the split; None where their number is not known.
        """
        now = time.perf_counter()
        first, self._has_evaluated = not self._has_evaluated, True
        too_soon = now - self._last_line < self._min_seconds or done in (0, total)
        if not (self._interactive or first) and too_soon:
            return
        self._last_line = now
        images = f": {done:,} images" if total is None else f": {done:,} of {total:,} images"
        if not done and total is None:  # "0 images" would sound as if there were none
            images = ""
        self.wait(f"evaluating{images}" + (", compiling first" if first else ""))

    def report(self, text: str) -> None:
        """Prints a line that stays."""
        self._print(text, temporary=False)

    def _print(self, text: str, *, temporary: bool) -> None:
        if self._stream is None:
            return
        try:
            self._write(self._stream, text, temporary=temporary)
        except OSError:  # the terminal is gone, or nobody reads any more: training goes on
            self._stream = None

    def _write(self, stream: TextIO, text: str, *, temporary: bool) -> None:
        if self._interactive:
            # Carriage return and "erase to the end of the line" replace the temporary line.
            if temporary:  # a line that wraps could not be replaced
                text = text[: shutil.get_terminal_size().columns - 1]
            stream.write(f"\r\x1b[K{text}" + ("" if temporary else "\n"))
            self._open_line = temporary
        else:
            stream.write(text + "\n")
        stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends a temporary line that is still open."""
        if self._stream is not None and self._open_line:
            with contextlib.suppress(OSError):
                self._stream.write("\n")
                self._stream.flush()
            self._open_line = False
