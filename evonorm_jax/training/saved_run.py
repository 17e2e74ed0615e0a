"""What a run has saved: read from its directory, as the start of another run or to be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CLASSES_FILE, read_json
from evonorm_jax.training.checkpoint import Checkpoints, has_checkpoint
from evonorm_jax.training.run_directory import read_config

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The variables of a run, and what is needed to use them.

    Attributes:
      source: Path of the run directory.
      step: Updates made.
      config: The run's config.
      variables: Variables of the network by the names of their collections, as NumPy arrays.
      averaged: Whether they hold the moving averages that the run kept.
      classes: Content of `classes.json`; None where there is no such file.
    """

    source: str
    step: int
    config: ml_collections.ConfigDict
    variables: dict[str, Any]
    averaged: bool
    classes: dict[str, Any] | None

    def describe(self) -> str:
        """Says where the variables come from.

        For example `runs/digits at step 440, its moving averages`.
        """
        return f"{self.source} at step {self.step}" + (
            ", its moving averages" if self.averaged else ""
        )


def read_saved_run(
    path: str | Path, step: int | None = None, *, newest_weights: bool = False
) -> SavedRun:
    """Reads what a run has saved; nothing is changed.

    Args:
      path: Run directory of `experiments.train`.
      step: Step of the checkpoint; the newest by default.
      newest_weights: Whether to take the newest weights although the run kept averages.

    Raises:
      UserError: It is no run directory, or has no such checkpoint.
    """
    workdir = Path(path)
    config = read_config(workdir)
    if not has_checkpoint(workdir):
        raise UserError(
            f"{workdir} has no finished checkpoint yet: let the run go on to its first one."
        )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, variables, averages = checkpoints.read_variables(step)
    if newest_weights:
        averages = {}
    classes_file = workdir / CLASSES_FILE
    return SavedRun(
        source=str(path),
        step=step,
        config=config,
        variables={name: {**tree, **averages.get(name, {})} for name, tree in variables.items()},
        averaged=bool(averages),
        classes=read_json(classes_file) if classes_file.exists() else None,
    )
