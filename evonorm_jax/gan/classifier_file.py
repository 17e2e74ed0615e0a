"""A trained classifier in one small file; a classifier of the digits comes with the package.

Figures compare only where the same network saw the images, so a classifier travels with them. The
classifier of the digits is a ResNet-8 with 64 features. These commands made its file:

    python -m experiments.train --config configs/digits_resnet_bn_relu.py --workdir RUN
    python -m experiments.export --workdir RUN --output evonorm_jax/gan/digits_classifier.npz
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.gan.features import FeatureNetwork, classifier_features
from evonorm_jax.models import create_model
from evonorm_jax.npz_file import NpzFile
from evonorm_jax.run_files import replacing

DIGITS_CLASSIFIER = Path(__file__).with_name("digits_classifier.npz")

_FORMAT = "evonorm_jax classifier 1"


def write_classifier(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Writes a classifier with its weights rounded to float16, which halves the size.

    Args:
      path: Path of the `.npz` file, which appears whole or not at all.
      variables: Variables of the model: `params` and, if it has any, `batch_stats`.
      model: Arguments of `create_model`: `name`, `num_classes`, `norm_act` and others.
      mean: Mean of each channel that is subtracted from the pixels, in their units.
      std: Standard deviation of each channel that the pixels are divided by, in their units.

    Raises:
      UserError: A weight is beyond the range of float16.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    with np.errstate(over="ignore"):  # refused in the next line
        arrays = {name: np.asarray(array).astype(np.float16) for name, array in flat.items()}
    if overflow := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{overflow[0]} has values that float16 cannot hold.")
    about = {"format": _FORMAT, "model": dict(model), "mean": list(mean), "std": list(std)}
    arrays["about"] = np.array(json.dumps(about))
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_classifier(path: str | Path = DIGITS_CLASSIFIER) -> FeatureNetwork:
    """Reads a classifier that `write_classifier` wrote, as a network with features for the metrics.

    By default it reads the classifier of the digits.

    >>> read_classifier().name
    'digits_classifier.npz'

    Raises:
      UserError: The file is not there, or `write_classifier` did not write it.
    """
    path = Path(path)
    try:
        with NpzFile(path) as file:
            arrays = {name: file.read(name) for name in file.names}
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != _FORMAT:
            raise KeyError(_FORMAT)
        _check_numbers(arrays | {name: np.asarray(about[name]) for name in ("mean", "std")})
        if len(about["mean"]) != len(about["std"]) or min(about["std"]) <= 0:
            raise ValueError("std must be above 0, with as many values as mean")
        return classifier_features(
            create_model(**about["model"]),
            traverse_util.unflatten_dict(
                {name: array.astype(np.float32) for name, array in arrays.items()}, sep="/"
            ),
            mean=about["mean"],
            std=about["std"],
            name=path.name,
        )
    # A UserError is a ValueError; the IndexError is that of a name that is an array and a folder.
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path} is not there or no classifier that experiments.export wrote ({error})."
        ) from error


def _check_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite numbers alone")
