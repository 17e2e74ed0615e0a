"""The weights that a detector's run starts from, `config.init_from`.

A run directory of the same detector gives all of them; one of a classifier, or a safetensors file
of timm, gives those of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from flax import traverse_util

from evonorm_jax.detection import MaskRCNN
from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin, load_timm_weights
from evonorm_jax.interop.safetensors_file import check_finite
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.config import complete
from evonorm_jax.training.init_from import read_initial_weights
from evonorm_jax.training.run_directory import read_config
from evonorm_jax.training.tasks.base import InitialWeights


def read_detector_weights(
    config: ml_collections.ConfigDict, model: MaskRCNN, wanted: Mapping[str, Any]
) -> InitialWeights | None:
    """Reads `config.init_from` for a run; None where it is "".

    Args:
      config: Config of the run.
      model: Its detector.
      wanted: Shapes of its variables by the names of their collections.

    Raises:
      UserError: There are no such weights, or they are of another network.
    """
    workdir = Path(config.init_from) if config.init_from else None
    if workdir is None or (workdir.is_dir() and _task_of(workdir) == config.task):
        return read_initial_weights(config, model, wanted)
    if workdir.is_dir():
        variables, source = _read_classifier(config, workdir)
        check_finite(traverse_util.flatten_dict(variables, sep="/"), source)
    else:
        variables, source = _read_timm_weights(config, model)
    wanted = {name: tree["backbone"] for name, tree in wanted.items() if "backbone" in tree}
    backbone = _fit(variables, wanted, source)
    return InitialWeights(
        {name: {"backbone": tree} for name, tree in backbone.items()},
        f"Starting with the backbone of {source}.",
    )


def _task_of(workdir: Path) -> str:
    return complete(read_config(workdir)).task


def _read_classifier(
    config: ml_collections.ConfigDict, workdir: Path
) -> tuple[dict[str, Any], str]:
    if config.init_from_model:
        raise UserError(
            f"config.init_from={str(workdir)!r} is a folder, so it must be a run directory, which "
            "knows its network: leave config.init_from_model empty, or name a .safetensors file."
        )
    theirs = read_config(workdir).model
    if theirs.norm_act != config.model.norm_act:
        raise UserError(
            f"config.init_from={str(workdir)!r} has the layer {theirs.norm_act!r}, but "
            f"config.model.norm_act is {config.model.norm_act!r}: they must be the same."
        )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, variables, averages = checkpoints.read_variables()
    source = f"{workdir} ({theirs.name}) at step {step}"
    return {**variables, **averages}, source + (", its moving averages" if averages else "")


def _read_timm_weights(
    config: ml_collections.ConfigDict, model: MaskRCNN
) -> tuple[dict[str, Any], str]:
    path, name = config.init_from, config.init_from_model
    if not name:
        raise UserError(
            f"config.init_from={path!r} is no run directory. For a safetensors file, say which of "
            "timm's networks it is of: config.init_from_model, for example 'resnet50'."
        )
    fields = config.model.fields.to_dict().get("backbone_fields", {})
    # What the backbones of detectors set besides; it changes nothing where layers fuse nothing.
    if hasattr(model.backbone, "residual_norm"):
        check_twin(model.backbone, name, residual_norm=model.backbone.residual_norm, **fields)
    else:
        check_twin(model.backbone, name, **fields)
    return load_timm_weights(path, name, **fields), f"{path} (timm's {name})"


def _fit(variables: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Takes what the backbone has from the variables of a classifier.

    Raises:
      UserError: Something of it is missing or has another shape; the first are named.
    """
    given = traverse_util.flatten_dict(dict(variables))
    needed = traverse_util.flatten_dict(dict(wanted))
    wrong = {
        path: f"there {given[path].shape if path in given else 'missing'}, here {leaf.shape}"
        for path, leaf in needed.items()
        if path not in given or given[path].shape != leaf.shape
    }
    if wrong:
        shown = "\n".join(f"  {'/'.join(path)}: {text}" for path, text in sorted(wrong.items())[:5])
        raise UserError(
            f"config.init_from: {source} is another network than the backbone: {len(wrong)} of its "
            f"{len(needed)} arrays differ, the first:\n{shown}"
        )
    return traverse_util.unflatten_dict({path: given[path] for path in needed})
