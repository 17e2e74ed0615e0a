"""Resolves every duration of a config to steps, in one place, when the run starts.

Configs name durations with their unit and never compute from the batch size, so that a batch-size
sweep is one override; here the batch size is known.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import LARGEST_WHOLE

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class Durations:
    """Durations of a run in steps.

    Attributes:
      steps_per_epoch: Full batches in one pass over the training set.
      num_steps: Steps of the whole run.
      warmup_steps: Steps of the warm-up.
      eval_every_steps: Steps between two evaluations.
    """

    steps_per_epoch: int
    num_steps: int
    warmup_steps: int
    eval_every_steps: int

    def epoch(self, step: int) -> float:
        """Returns how many passes over the training set `step` updates have made."""
        return step / self.steps_per_epoch


def resolve_durations(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Durations:
    """Reads `num_epochs` or `num_steps`, `schedule.warmup_epochs` and `eval_every_epochs`.

    Raises:
      UserError: Not exactly one of `num_epochs` and `num_steps` is set, the run is longer than its
        steps can be counted, or the warm-up does not end before the run does.
    """
    if (config.num_epochs > 0) == (config.num_steps > 0):
        raise UserError(
            f"config.num_epochs={config.num_epochs} and config.num_steps={config.num_steps}: "
            "exactly one of them must be above 0; set the other to 0."
        )
    num_steps = config.num_steps or max(1, round(config.num_epochs * steps_per_epoch))
    if num_steps > LARGEST_WHOLE:
        raise UserError(
            f"config.num_epochs={config.num_epochs} are {num_steps:.3g} steps; a run has at most "
            f"{LARGEST_WHOLE:,}."
        )
    warmup_steps = round(config.schedule.warmup_epochs * steps_per_epoch)
    if not 0 <= warmup_steps < num_steps:
        raise UserError(
            f"config.schedule.warmup_epochs={config.schedule.warmup_epochs} is {warmup_steps} "
            f"steps; it must be at least 0 and end before the run of {num_steps} steps does."
        )
    eval_every = math.ceil(config.eval_every_epochs * steps_per_epoch) or num_steps
    return Durations(steps_per_epoch, num_steps, warmup_steps, min(eval_every, num_steps))
