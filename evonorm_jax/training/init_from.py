"""The weights that a classifier's run starts from, `config.init_from`: fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax import linen as nn
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin, load_timm_weights
from evonorm_jax.interop.safetensors_file import check_finite
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.run_directory import read_config
from evonorm_jax.training.tasks.base import InitialWeights

if TYPE_CHECKING:
    import ml_collections

_HEAD = ("params", "head")


def read_initial_weights(
    config: ml_collections.ConfigDict, model: nn.Module, wanted: Mapping[str, Any]
) -> InitialWeights | None:
    """Reads `config.init_from` for a run; None where it is "".

    It names a safetensors file with weights of timm's `config.init_from_model`, or a run directory,
    whose newest checkpoint is taken, its moving averages where it has them.

    Args:
      config: Config of the run.
      model: Network of the run.
      wanted: Shapes of its variables by the names of their collections.

    Returns:
      The weights; without `params/head` where the classes are others.

    Raises:
      UserError: There are no such weights, or they are of another network.
    """
    if not config.init_from:
        if config.init_from_model:
            raise UserError(
                f"config.init_from_model={config.init_from_model!r} says what the weights of "
                "config.init_from are, which is empty: name the .safetensors file there."
            )
        return None
    if Path(config.init_from).is_dir():
        variables, source = _read_run(config)
        check_finite(traverse_util.flatten_dict(variables, sep="/"), source)
    else:
        variables, source = _read_timm_weights(config, model)
    variables, note = _fit_head(variables, wanted, source)
    return InitialWeights(variables, f"Starting from {source}{note}.")


def _read_timm_weights(
    config: ml_collections.ConfigDict, model: nn.Module
) -> tuple[dict[str, Any], str]:
    path, name = config.init_from, config.init_from_model
    if not name:
        raise UserError(
            f"config.init_from={path!r} is no run directory. For a safetensors file, say which of "
            "timm's networks it is of: config.init_from_model, for example 'resnet50'."
        )
    fields = config.model.fields.to_dict()
    check_twin(model, name, **fields)
    return load_timm_weights(path, name, **fields), f"{path} (timm's {name})"


def _read_run(config: ml_collections.ConfigDict) -> tuple[dict[str, Any], str]:
    workdir = Path(config.init_from)
    if config.init_from_model:
        raise UserError(
            f"config.init_from={str(workdir)!r} is a folder, so it must be a run directory, which "
            "knows its network: leave config.init_from_model empty, or name a .safetensors file."
        )
    theirs, ours = read_config(workdir).model, config.model
    for field in ("name", "norm_act"):
        if theirs[field] != ours[field]:
            raise UserError(
                f"config.init_from={str(workdir)!r} is of another network: its config.model.{field}"
                f" is {theirs[field]!r}, that of the new run {ours[field]!r}."
            )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, variables, averages = checkpoints.read_variables()
    source = f"{workdir} at step {step}" + (", its moving averages" if averages else "")
    return {**variables, **averages}, source


def _fit_head(
    variables: dict[str, Any], wanted: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], str]:
    """Leaves the head out where it has other classes, and says so.

    Raises:
      UserError: There is any other difference; the first are named.
    """
    given, needed = _shapes(variables), _shapes(wanted)
    differing = {
        path for path in given.keys() | needed.keys() if given.get(path) != needed.get(path)
    }
    if not differing:
        return variables, ""
    if others := sorted(path for path in differing if path[:2] != _HEAD):
        shown = "\n".join(
            f"  {'/'.join(path)}: there {given.get(path, 'missing')}, "
            f"here {needed.get(path, 'missing')}"
            for path in others[:5]
        )
        raise UserError(
            f"config.init_from: {source} is of another network: {len(others)} of {len(needed)} "
            f"arrays differ, the first:\n{shown}\nSet config.model to the network of these weights."
        )
    there, here = given[*_HEAD, "bias"][0], needed[*_HEAD, "bias"][0]
    params = {name: module for name, module in variables["params"].items() if name != "head"}
    note = f", but for the head: a new one for {here} classes (there {there})"
    return {**variables, "params": params}, note


def _shapes(variables: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {
        path: array.shape for path, array in traverse_util.flatten_dict(dict(variables)).items()
    }
