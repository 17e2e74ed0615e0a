"""The best evaluation of a run: its checkpoint is kept, and a run may stop when none is better.

Nothing is stored for it. The evaluations stand in `metrics.jsonl`, so a resumed run and
`experiments.evaluate` know the same best one as the run that was never stopped.
"""

from __future__ import annotations

import math
from pathlib import Path

from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics, metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    METADATA_FILE,
    METRICS_FILE,
    read_json,
    read_json_lines,
)


class BestEvaluation:
    """Follows the main metric of a run from evaluation to evaluation.

    >>> from evonorm_jax.metrics import CLASSIFICATION
    >>> best = BestEvaluation(CLASSIFICATION, patience=2)
    >>> for step, accuracy in ((10, 0.5), (20, 0.8), (30, 0.8), (40, 0.7)):
    ...     best.add(step, accuracy)
    >>> best.step, best.evaluations_since, best.exhausted
    (20, 2, True)

    Args:
      metrics: Name the main metric, and say whether the larger value is the better one.
      patience: Evaluations one after the other that may bring nothing better; 0 for any number.

    Attributes:
      step: Step of the best evaluation, the first one of equals; None before there is one.
      value: Its main metric.
      evaluations_since: Evaluations after it.
    """

    def __init__(self, metrics: RunMetrics, *, patience: int = 0):
        self._metrics = metrics
        self._patience = patience
        self.step: int | None = None
        self.value = math.nan
        self.evaluations_since = 0

    @property
    def exhausted(self) -> bool:
        """Whether as many evaluations as the patience allows have brought nothing better."""
        return 0 < self._patience <= self.evaluations_since

    def add(self, step: int, value: float | None) -> None:
        """Takes the main metric of an evaluation; None or NaN is worse than any number."""
        if value is not None and not math.isnan(value) and self._is_better(value):
            self.step, self.value, self.evaluations_since = step, value, 0
        else:
            self.evaluations_since += 1

    def read(self, workdir: Path, last_step: int) -> None:
        """Takes the evaluations of a run directory, those up to a step."""
        main = self._metrics.main_metric
        for line in read_json_lines(workdir / METRICS_FILE):
            row = line.row or {}
            step, value = row.get("step"), row.get(main)
            if main in row and isinstance(step, int) and step <= last_step:
                self.add(step, value if isinstance(value, int | float) else None)

    def _is_better(self, value: float) -> bool:
        if self.step is None:
            return True
        if self._metrics.main.higher_is_better:
            return value > self.value
        return value < self.value

    def __str__(self) -> str:
        """The main metric with its value and step, such as `eval/top1 98.61 % (step 40)`."""
        value = self._metrics.main.format(self.value)
        return f"{self._metrics.main_metric} {value} (step {self.step})"


def find_best_step(workdir: Path, saved_steps: list[int]) -> int:
    """Returns the step of the best evaluation of a run directory.

    Args:
      workdir: The run directory.
      saved_steps: Steps of its checkpoints. Evaluations after the newest do not count: a run that
        goes on makes them again.

    Raises:
      UserError: Nothing was evaluated, or the best checkpoint was not kept.
    """
    metrics = metrics_of_run(read_json(workdir / METADATA_FILE), read_json(workdir / CONFIG_FILE))
    best = BestEvaluation(metrics)
    best.read(workdir, max(saved_steps, default=0))
    if best.step is None:
        raise UserError(
            f"{workdir / METRICS_FILE} has no {metrics.main_metric} of a saved step, so no "
            "checkpoint of it is the best one; name a --step, or leave the newest."
        )
    if best.step not in saved_steps:
        known = ", ".join(map(str, saved_steps))
        raise UserError(
            f"The best evaluation of {workdir} was {best}, but its checkpoint was not kept (there: "
            f"{known}): runs keep it with config.keep_best_checkpoint=True."
        )
    return best.step
