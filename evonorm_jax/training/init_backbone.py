"""The weights that a detector's run starts from, `config.init_from`.

A run directory of the same detector gives all of them; one of a classifier, or a safetensors file
of timm, gives those of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
from flax import traverse_util

from evonorm_jax.detection import MaskRCNN
from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin, load_timm_weights
from evonorm_jax.training.init_from import (
    check_no_timm_name,
    read_initial_weights,
    unknown_source,
)
from evonorm_jax.training.saved_run import SavedRun, holds_run, read_saved_run
from evonorm_jax.training.tasks.base import InitialWeights
from evonorm_jax.training.weights_input import describe_scale, initial_weights_name


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
    if not config.init_from:
        return read_initial_weights(config, model, wanted)
    saved = read_saved_run(config.init_from) if holds_run(config.init_from) else None
    if saved and saved.config.task == config.task:
        return read_initial_weights(config, model, wanted)
    if saved:
        variables, source = _classifier_of(config, saved)
    else:
        variables, source = _read_timm_weights(config, model)
    wanted = {name: tree["backbone"] for name, tree in wanted.items() if "backbone" in tree}
    backbone = _fit(variables, wanted, source)
    return InitialWeights(
        {name: {"backbone": tree} for name, tree in backbone.items()},
        f"Starting with the backbone of {source}."
        f"{describe_scale(config, initial_weights_name(config))}",
    )


def _classifier_of(
    config: ml_collections.ConfigDict, saved: SavedRun
) -> tuple[dict[str, Any], str]:
    check_no_timm_name(config)
    theirs = saved.config.model
    if theirs.norm_act != config.model.norm_act:
        raise UserError(
            f"config.init_from={config.init_from!r} has the layer {theirs.norm_act!r}, but "
            f"config.model.norm_act is {config.model.norm_act!r}: they must be the same."
        )
    return saved.variables, f"{saved.describe()} ({theirs.name})"


def _read_timm_weights(
    config: ml_collections.ConfigDict, model: MaskRCNN
) -> tuple[dict[str, Any], str]:
    path, name = config.init_from, initial_weights_name(config)
    if not name:
        raise unknown_source(path)
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
