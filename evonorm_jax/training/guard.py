"""Stops a run whose loss or gradient is not finite, and says where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.tasks import Task

# Steps that may be under way before the host waits: enough to hide dispatch, few enough that a
# request to stop is answered soon and their batches do not fill the device.
STEPS_IN_FLIGHT = 3


class TrainingDiverged(RuntimeError):
    """Loss or gradient is not finite; the message names step, layer and last good checkpoint."""


class NonFiniteGuard:
    """Reads the metrics of every step, late enough not to hold the devices up.

    Args:
      task: What is trained, for the message.
      checkpoints: Checkpoints of the run, whose last good one the message names.
    """

    def __init__(self, task: Task, checkpoints: Checkpoints):
        self._task = task
        self._checkpoints = checkpoints
        self._pending: list[tuple[int, Any]] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that may still be running."""
        self._pending.append((step, metrics))
        if len(self._pending) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._pending[-STEPS_IN_FLIGHT - 1])

    def check(self) -> None:
        """Waits for all steps so far.

        Raises:
          TrainingDiverged: A metric of one of them is not finite.
        """
        for step, metrics in jax.device_get(self._pending):
            values = {name: float(value) for name, value in metrics.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise TrainingDiverged(self._message(step, values))
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        self._pending.clear()

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric over the steps since the last call.

        Raises:
          TrainingDiverged: As `check`.
        """
        self.check()
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def running_sums(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run logs the means of an unkilled one."""
        return {"count": self._count, "sums": dict(self._sums)}

    def resume(self, running: Mapping[str, Any]) -> None:
        """Takes what `running_sums` gave; nothing where a checkpoint has none."""
        self._sums, self._count = dict(running.get("sums", {})), running.get("count", 0)

    def _message(self, step: int, values: dict[str, float]) -> str:
        config = self._task.config
        fields = dict(config.model.norm_act_fields) or "its defaults"
        last = self._checkpoints.latest_step
        good = "there is no checkpoint" if last is None else f"the last good checkpoint is {last}"
        numbers = ", ".join(f"{name}={value:g}" for name, value in values.items())
        return (
            f"Training stopped being finite at step {step} ({numbers}): {self._task.headline()} "
            f"({fields}), dtype {config.dtype}; {good} ({self._checkpoints.directory}). "
            f"{self._task.remedy}"
        )
