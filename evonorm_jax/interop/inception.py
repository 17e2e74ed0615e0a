"""The weights of FID's Inception network, from torch-fidelity's file.

The file (`weights-inception-2015-12-05-6726825d.pth`) is a pickle, to be converted once by
`experiments.convert_inception`. Nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.gan.inception import InceptionV3
from evonorm_jax.interop.names import TENSOR_NAMES
from evonorm_jax.interop.safetensors_file import read_safetensors
from evonorm_jax.interop.state_dict import raise_faults, shape_text

_COUNTER = ".num_batches_tracked"


def load_inception_weights(path: str | Path) -> dict[str, Any]:
    """Reads the weights of `InceptionV3` from a file with torch-fidelity's tensors.

    Args:
      path: Safetensors file with torch-fidelity's tensor names.

    Returns:
      The variables, `params` and `batch_stats`, as float32 NumPy arrays.

    Raises:
      UserError: The file is not there or holds other tensors, such as those of torchvision's
        network, which gives other figures; or `safetensors` is not installed.
    """
    state_dict = read_safetensors(path)
    try:
        return from_inception_state_dict(state_dict)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_inception_state_dict(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts arrays by tensor name to the variables that `load_inception_weights` returns.

    Raises:
      UserError: The tensors are others than those of FID's Inception network.
    """
    if any(name.startswith("AuxLogits") for name in state_dict):
        raise UserError(
            "the tensors are those of torchvision's Inception-v3, another network: with it the "
            "Inception Score comes out 5 to 10 % lower and FID is not FID. Take the weights of "
            "torch-fidelity or pytorch-fid for the graph of 2015-12-05."
        )
    tensors = inception_tensors()
    given = {
        name: np.asarray(array) for name, array in state_dict.items() if not name.endswith(_COUNTER)
    }
    raise_faults(
        {
            "missing": sorted(tensors.keys() - given.keys()),
            "not of this network": sorted(given.keys() - tensors.keys()),
            "of another shape": [
                f"{name} {shape_text(given[name].shape)}, not {shape_text(shape)}"
                for name, (_, shape) in tensors.items()
                if name in given and given[name].shape != shape
            ],
        },
        "the tensors are not those of FID's Inception network",
        "Convert torch-fidelity's file by experiments.convert_inception",
    )
    flat = {}
    for name, (path, shape) in tensors.items():
        array = given[name].astype(np.float32)
        # [out, in, k, k] -> [k, k, in, out]
        flat[path] = np.moveaxis(array, (1, 0), (-2, -1)) if len(shape) > 1 else array
    return traverse_util.unflatten_dict(flat)


@functools.cache
def inception_tensors() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns the path of each tensor here and its shape there, by torch-fidelity's name."""
    images = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), images)
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        *window, last = leaf.shape
        shape = (last, window[-1], *window[:-1]) if window else (last,)
        tensors[".".join([*path[1:-1], TENSOR_NAMES[path[-1]]])] = (path, shape)
    return tensors
