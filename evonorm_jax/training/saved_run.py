"""What a run has saved, as the start of another run or to be used.

It is read from the run's directory, or from the safetensors file that `experiments.export` made.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import block, check_fields, flag, optional, whole
from evonorm_jax.interop.safetensors_file import (
    check_finite,
    read_metadata,
    read_safetensors,
)
from evonorm_jax.run_files import CLASSES_FILE, CONFIG_FILE, read_json
from evonorm_jax.training.checkpoint import Checkpoints, has_checkpoint
from evonorm_jax.training.config import check_config, complete
from evonorm_jax.training.run_directory import read_config

if TYPE_CHECKING:
    import ml_collections


#: What the metadata of an exported safetensors file say of the run stands under this name.
METADATA_KEY = "evonorm_jax"

_ENDING = ".safetensors"

_ABOUT = {
    "step": whole(0),
    "averaged": flag(),
    "config": block(),
    "classes": optional(block()),
}


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The variables of a run, and what is needed to use them.

    Attributes:
      source: Path of the run directory or the file.
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


def holds_run(path: str | Path) -> bool:
    """Whether this is a folder, or a safetensors file that `experiments.export` wrote."""
    # Not those of Path, which raise where a name is too long.
    if str(path).endswith(_ENDING) and os.path.isfile(path):
        return METADATA_KEY in read_metadata(path)
    return os.path.isdir(path)


def read_saved_run(
    path: str | Path, step: int | None = None, *, newest_weights: bool = False
) -> SavedRun:
    """Reads what a run has saved; nothing is changed.

    Args:
      path: Run directory of `experiments.train`, or file of `experiments.export`.
      step: Step of the checkpoint; the newest by default.
      newest_weights: Whether to take the newest weights although the run kept averages.

    Raises:
      UserError: It is no run, has no such checkpoint, or one with weights that are not finite.
    """
    if Path(path).suffix == _ENDING:
        return _read_file(Path(path), step, newest_weights)
    workdir = Path(path)
    config = read_config(workdir)
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{workdir / CONFIG_FILE}: {error}") from None
    if not has_checkpoint(workdir):
        raise UserError(
            f"{workdir} has no finished checkpoint yet: let the run go on to its first one."
        )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, variables, averages = checkpoints.read_variables(step)
    if newest_weights:
        averages = {}
    classes_file = workdir / CLASSES_FILE
    saved = SavedRun(
        source=str(path),
        step=step,
        config=config,
        variables={name: {**tree, **averages.get(name, {})} for name, tree in variables.items()},
        averaged=bool(averages),
        classes=read_json(classes_file) if classes_file.exists() else None,
    )
    # Of a file that is found where its tensors are read.
    check_finite(traverse_util.flatten_dict(saved.variables, sep="/"), saved.describe())
    return saved


def _read_file(path: Path, step: int | None, newest_weights: bool) -> SavedRun:
    tensors = read_safetensors(path)
    text = read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise UserError(
            f"{path} does not say which network it is of: load_run reads run directories, and "
            "safetensors files of experiments.export. For timm's weights take "
            "evonorm_jax.interop.load_timm_weights."
        )
    try:
        about = json.loads(text)
        saved = SavedRun(
            source=str(path),
            step=about["step"],
            config=_as_config(about["config"]),
            variables=traverse_util.unflatten_dict(tensors, sep="/"),
            averaged=about["averaged"],
            classes=about["classes"],
        )
        check_fields(about, _ABOUT, METADATA_KEY)
    # The IndexError is that of a name that is a tensor and a folder of others.
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error
    if step not in (None, saved.step) or (newest_weights and saved.averaged):
        asked = "the newest weights" if step in (None, saved.step) else f"step {step}"
        raise UserError(
            f"{path} holds {saved.describe()} alone, not {asked}: take the run directory."
        )
    return saved


def _as_config(content: dict[str, Any]) -> ml_collections.ConfigDict:
    from ml_collections import ConfigDict  # here, because benchmarks run where it is missing

    config = complete(ConfigDict(content))
    check_config(config)
    return config
