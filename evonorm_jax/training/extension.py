"""A run that is made longer than it was started for, and what that does to its learning rate."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from evonorm_jax.errors import UserError
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.experiment import Experiment
from evonorm_jax.training.run_directory import read_config
from evonorm_jax.training.tasks import Task


@dataclasses.dataclass(frozen=True)
class Extension:
    """From a run as it was to one that goes on for longer.

    The longer run has its own schedule from the next step on: whatever counts in fractions of the
    run, such as the cosine or the boundaries of steps, is stretched over the new length. So the
    learning rate may jump up, and the result is not that of a run which had the length from the
    start.

    Attributes:
      earlier: The task with the length that the run had.
      longer: The run as it goes on.
    """

    earlier: Task
    longer: Experiment

    def describe(self, step: int) -> str:
        """Says what changes for a run that has made `step` updates."""
        assert self.earlier.durations is not None
        before, after = self.earlier.durations.num_steps, self.longer.durations.num_steps
        if before == after:
            patience = self.longer.config.early_stopping_patience
            if not patience:
                return "Extending the run: it no longer stops early."
            return f"Extending the run: {patience} evaluations may bring no better one."
        old, new = self.earlier.rates(max(step - 1, 0)), self.longer.task.rates(step)
        rates = ", ".join(
            f"{name.replace('_', ' ')} {old[name]:.4g} before, {rate:.4g} now"
            for name, rate in new.items()
        )
        return (
            f"Extending the run from {before:,} to {after:,} steps. From step {step + 1:,} on its "
            f"schedule is that of a run of {after:,} steps: {rates}."
        )


def find_extension(workdir: Path, run: Experiment) -> Extension | None:
    """Compares a run with what its run directory was started for; changes nothing.

    Args:
      workdir: A run directory of the same config but for its length and its patience.
      run: The run as it is to go on.

    Returns:
      The extension; None where the run directory has that length already, as when an extended run
      was stopped and is started again.

    Raises:
      UserError: The run would be shorter.
    """
    config = read_config(workdir)
    before, after = resolve_durations(config, run.durations.steps_per_epoch), run.durations
    patience = [c.early_stopping_patience or math.inf for c in (config, run.config)]
    if after.num_steps < before.num_steps or patience[1] < patience[0]:
        raise UserError(
            f"--extend makes a run longer, but {workdir} has {before.num_steps} steps and "
            f"early_stopping_patience={config.early_stopping_patience}, here it is "
            f"{after.num_steps} and {run.config.early_stopping_patience}. Raise config.num_epochs "
            "or config.num_steps, or choose another --workdir."
        )
    if (after.num_steps, patience[1]) == (before.num_steps, patience[0]):
        return None
    return Extension(type(run.task)(config, run.pipeline, run.layout, before), run)
