"""The weights that a classifier's run starts from, `config.init_from`: fine-tuning."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax import linen as nn
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin, load_timm_weights
from evonorm_jax.run_files import as_json
from evonorm_jax.training.saved_run import SavedRun, holds_run, read_saved_run
from evonorm_jax.training.tasks.base import InitialWeights
from evonorm_jax.training.weights_input import describe_scale, initial_weights_name

if TYPE_CHECKING:
    import ml_collections

_HEAD = ("params", "head")


def read_initial_weights(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    wanted: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
) -> InitialWeights | None:
    """Reads `config.init_from` for a run; None where it is "".

    It names a safetensors file with weights of timm's `config.init_from_model`, which the name of
    the file may say as well (`resnet50.a1_in1k.safetensors`), or a run: a run directory, whose
    newest checkpoint is taken, its moving averages where it has them, or a safetensors file of
    `experiments.export`.

    Args:
      config: Config of the run.
      model: Network of the run.
      wanted: Shapes of its variables by the names of their collections.
      class_names: Names of the classes; None where the data set has none.

    Returns:
      The weights; without `params/head` where the classes are others, by their number or names.

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
    remedy, their_names = "Set config.model to the network of these weights.", None
    if holds_run(config.init_from):
        saved = _read_run(config)
        variables, source = saved.variables, saved.describe()
        remedy = _describe_network(saved.config.model.fields, config.model.fields) or remedy
        their_names = (saved.classes or {}).get("class_names")
    else:
        variables, source = _read_timm_weights(config, model)
    variables, note = _fit_head(variables, wanted, source, remedy)
    if not note and class_names and their_names and [*class_names] != [*their_names]:
        variables = _without_head(variables)
        note = (
            f", but for the head: a new one for {_some(class_names)} (there {_some(their_names)})"
        )
    scale = describe_scale(config, initial_weights_name(config))
    return InitialWeights(variables, f"Starting from {source}{note}.{scale}")


def _read_timm_weights(
    config: ml_collections.ConfigDict, model: nn.Module
) -> tuple[dict[str, Any], str]:
    path, name = config.init_from, initial_weights_name(config)
    if not name:
        raise unknown_source(path)
    fields = config.model.fields.to_dict()
    check_twin(model, name, **fields)
    return load_timm_weights(path, name, **fields), f"{path} (timm's {name})"


def unknown_source(path: str) -> UserError:
    """Returns what to say of a `config.init_from` that is no run and has no name of timm's."""
    if not os.path.exists(path):
        return UserError(
            f"config.init_from={path!r} is not there: name a run directory, a file of "
            "experiments.export, or a safetensors file of timm's weights, with init_from_model."
        )
    return UserError(
        f"config.init_from={path!r} is no run directory. For a safetensors file, say which of "
        "timm's networks it is of: config.init_from_model, for example 'resnet50'."
    )


def _read_run(config: ml_collections.ConfigDict) -> SavedRun:
    check_no_timm_name(config)
    saved = read_saved_run(config.init_from)
    theirs, ours = saved.config.model, config.model
    for field in ("name", "norm_act"):
        if theirs[field] != ours[field]:
            raise UserError(
                f"config.init_from={config.init_from!r} is of another network: its "
                f"config.model.{field} is {theirs[field]!r}, that of the new run {ours[field]!r}."
            )
    return saved


def _describe_network(theirs: ml_collections.ConfigDict, ours: ml_collections.ConfigDict) -> str:
    """Says how a network gets the fields of an earlier run; "" where it has them."""
    theirs, ours = (as_json(fields.to_dict()) for fields in (theirs, ours))
    missing = [
        f"--config.model.fields.{name}={_as_argument(value)}"
        for name, value in theirs.items()
        if ours.get(name) != value
    ]
    others = [f"config.model.fields.{name}" for name in ours if name not in theirs]
    parts = [f"That run has {' '.join(missing)}." if missing else ""]
    parts += [f"It has no {', '.join(others)}." if others else ""]
    return " ".join(filter(None, parts))


def check_no_timm_name(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` where a run, which knows its network, gets a name of timm's besides."""
    if config.init_from_model:
        what = "folder, so it must be a run directory" if Path(config.init_from).is_dir() else "run"
        raise UserError(
            f"config.init_from={config.init_from!r} is a {what}, which knows its network: leave "
            "config.init_from_model empty, or name a .safetensors file of timm."
        )


def _as_argument(value: Any) -> str:
    text = str(tuple(value) if isinstance(value, list) else value)
    return shlex.quote(text.replace(" ", ""))


def _fit_head(
    variables: dict[str, Any], wanted: Mapping[str, Any], source: str, remedy: str
) -> tuple[dict[str, Any], str]:
    """Leaves the head out where it has another number of classes, and says so.

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
            f"arrays differ, the first:\n{shown}\n{remedy}"
        )
    there, here = given[*_HEAD, "bias"][0], needed[*_HEAD, "bias"][0]
    note = f", but for the head: a new one for {here} classes (there {there})"
    return _without_head(variables), note


def _without_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    params = {name: module for name, module in variables["params"].items() if name != "head"}
    return {**variables, "params": params}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shapes(variables: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {
        path: array.shape for path, array in traverse_util.flatten_dict(dict(variables)).items()
    }
