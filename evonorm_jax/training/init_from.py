"""The weights that a new run starts from, `config.init_from`: fine-tuning with its own head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin, load_timm_weights
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import Experiment
from evonorm_jax.training.run_directory import read_config

_HEAD = ("params", "head")


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What a run starts from instead of its seed.

    Attributes:
      variables: `params` and `batch_stats`; without `params/head` where the classes are others.
      description: where they come from, and what does not, for the log.
    """

    variables: dict[str, Any]
    description: str


def read_initial_weights(run: Experiment) -> InitialWeights | None:
    """Reads `config.init_from` for a run; None where it is "".

    It names a safetensors file with weights of timm's `config.init_from_model`, or a run directory,
    whose newest checkpoint is taken, its moving averages where it has them.

    Raises:
      UserError: where there are no such weights, or they are of another network.
    """
    config = run.config
    if not config.init_from:
        if config.init_from_model:
            raise UserError(
                f"config.init_from_model={config.init_from_model!r} says what the weights of "
                "config.init_from are, which is empty: name the .safetensors file there."
            )
        return None
    read = _read_run if Path(config.init_from).is_dir() else _read_timm_weights
    variables, source = read(run)
    shapes = run.state_shapes()
    wanted = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    variables, note = _fit_head(variables, wanted, source)
    return InitialWeights(variables, f"Starting from {source}{note}.")


def _read_timm_weights(run: Experiment) -> tuple[dict[str, Any], str]:
    path, name = run.config.init_from, run.config.init_from_model
    if not name:
        raise UserError(
            f"config.init_from={path!r} is no run directory. For a safetensors file, say which of "
            "timm's networks it is of: config.init_from_model, for example 'resnet50'."
        )
    fields = run.config.model.fields.to_dict()
    check_twin(run.model, name, **fields)
    return load_timm_weights(path, name, **fields), f"{path} (timm's {name})"


def _read_run(run: Experiment) -> tuple[dict[str, Any], str]:
    workdir = Path(run.config.init_from)
    if run.config.init_from_model:
        raise UserError(
            f"config.init_from={str(workdir)!r} is a folder, so it must be a run directory, which "
            "knows its network: leave config.init_from_model empty, or name a .safetensors file."
        )
    theirs, ours = read_config(workdir).model, run.config.model
    for field in ("name", "norm_act"):
        if theirs[field] != ours[field]:
            raise UserError(
                f"config.init_from={str(workdir)!r} is of another network: its config.model.{field}"
                f" is {theirs[field]!r}, that of the new run {ours[field]!r}."
            )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, saved = checkpoints.read_variables()
    averages = saved.pop("ema")
    source = f"{workdir} at step {step}"
    return (averages, f"{source}, its moving averages") if averages else (saved, source)


def _fit_head(
    variables: dict[str, Any], wanted: dict[str, Any], source: str
) -> tuple[dict[str, Any], str]:
    """The variables without their head where it has other classes, and what to say of it.

    Raises:
      UserError: for any other difference; the first are named.
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


def _shapes(variables: dict[str, Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: array.shape for path, array in traverse_util.flatten_dict(variables).items()}
