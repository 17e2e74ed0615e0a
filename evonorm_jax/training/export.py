"""Trained networks as single files, for use without a run directory or without this package.

program       The network with its weights as one program of `jax.export`, which jax alone runs.
weights       Any run's variables as safetensors, which `load_run` and `config.init_from` read.
classifier    A classifier's weights in half precision, for the figures of generated images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import export

from evonorm_jax.errors import UserError
from evonorm_jax.gan.classifier_file import write_classifier
from evonorm_jax.interop.safetensors_file import write_safetensors
from evonorm_jax.provenance import versions
from evonorm_jax.run_files import as_json, replacing, write_json
from evonorm_jax.training.saved_run import METADATA_KEY, SavedRun
from evonorm_jax.training.trained_classifier import TrainedClassifier
from evonorm_jax.training.trained_run import TrainedRun

PLATFORMS = ("cpu", "cuda", "tpu")
INPUT_DTYPES = ("uint8", "float32")
_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")


def export_program(
    run: TrainedRun,
    path: str | Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    input_dtype: str = "uint8",
) -> dict[str, Any]:
    """Writes the network with its weights as one program, and `PATH.json`, which describes it.

    jax alone runs it, whatever runs on the machine that exports::

        from jax import export

        with open("flowers.jaxexport", "rb") as file:
            program = export.deserialize(bytearray(file.read()))
        found = program.call(images)

    Of a classifier, `images` are `[N, H, W, C]` for any N, of the network's size, with pixel values
    from 0 to 255 that are not normalised, and the result is a dictionary of `logits` and
    `probabilities`, `[N, K]` float32. Of a detector, `images` are canvases `[N, S, S, 3]` with the
    picture at the top left, `valid_size` `[N, 2]` int32 is its height and width, and the result has
    the fields of `detection.Detections`. `PATH.json` has inputs, outputs and the names of the
    classes.

    Args:
      run: What `load_run` returned.
      path: The file to write; it appears whole, and the last of the two.
      platforms: Where the program shall run: some of "cpu", "cuda", "tpu" and "rocm".
      input_dtype: "uint8" or "float32", the dtype of the images.

    Returns:
      What `PATH.json` holds.

    Raises:
      UserError: A platform or dtype is unknown.
    """
    if not platforms or not set(platforms) <= set(_KNOWN_PLATFORMS):
        raise UserError(
            f"platforms={','.join(platforms)!r}: choose some of {', '.join(_KNOWN_PLATFORMS)}."
        )
    if input_dtype not in INPUT_DTYPES:
        raise UserError(
            f"input_dtype={input_dtype!r} is unknown: choose one of {', '.join(INPUT_DTYPES)}."
        )
    (batch,) = export.symbolic_shape("batch")
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *shape), dtype or input_dtype)
        for name, (shape, dtype) in run.program_inputs.items()
    }
    each_once = tuple(dict.fromkeys(platforms))
    program = export.export(jax.jit(run.program), platforms=each_once)(*inputs.values())
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    about = {
        "run": run.source,
        "step": run.step,
        "inputs": {name: _described(leaf) for name, leaf in inputs.items()},
        "outputs": {name: _described(leaf) for name, leaf in outputs.items()},
        "platforms": list(program.platforms),
        "versions": versions(("jax", "jaxlib")),
        "classes": run.classes(),
    }
    path = Path(path)
    write_json(path.with_name(f"{path.name}.json"), about)
    with replacing(path) as temporary:
        temporary.write_bytes(program.serialize())
    return about


def _described(leaf: Any) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else str(side) for side in leaf.shape]
    return {"shape": shape, "dtype": str(np.dtype(leaf.dtype))}


def export_weights(saved: SavedRun, path: str | Path) -> None:
    """Writes the variables of a run of any task as safetensors.

    A tensor has the path of its variable as its name, such as `params/head/kernel`, and the layout
    that Flax has. Of moving averages, where the run kept them, and newest weights the file has what
    `saved` has. The run's config and classes are in the metadata.

    Raises:
      UserError: The file cannot be written, or `safetensors` is not installed.
    """
    flat = traverse_util.flatten_dict(saved.variables, sep="/")
    tensors = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    about = {
        "run": saved.source,
        "step": saved.step,
        "averaged": saved.averaged,
        "config": as_json(saved.config.to_dict()),
        "classes": saved.classes,
    }
    with replacing(Path(path)) as temporary:
        write_safetensors(tensors, temporary, {"format": "np", METADATA_KEY: json.dumps(about)})


def export_classifier(run: TrainedRun, path: str | Path) -> None:
    """Writes a classifier for `config.figures.network`, its weights rounded to float16.

    Raises:
      UserError: The run is of something else, or a weight is beyond the range of float16.
    """
    if not isinstance(run, TrainedClassifier):
        raise UserError(
            f"{run.source} is no classifier, and the format npz is for classifiers alone: take "
            "another format."
        )
    model = run.config.model
    write_classifier(
        path,
        run.variables,
        model={
            "name": model.name,
            "num_classes": len(run.class_names),
            "norm_act": model.norm_act,
            "norm_act_fields": model.norm_act_fields.to_dict(),
            **model.fields.to_dict(),
        },
        mean=run.preprocessing.mean,
        std=run.preprocessing.std,
    )
