"""Conversion between PyTorch state dicts and Flax variables: pure functions of NumPy arrays.

    kernel of a convolution   [k, k, in, out]  <->  [out, in, k, k]  (depthwise: in = 1)
    kernel of a dense layer   [in, out]        <->  [out, in]; [out, in, 1, 1] of a 1x1 convolution
    everything else           [C]              <->  [C]; on the way in also [1, C, 1, 1]

A round trip from PyTorch and back gives the same numbers in the same layout, but for
`num_batches_tracked`: PyTorch's BatchNorm counts its training steps there and reads the count only
with `momentum=None`, which no network of timm has. It is accepted and comes back as 0.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.interop.names import TENSOR_NAMES, ModuleNames
from evonorm_jax.interop.timm_models import create_timm_model, find_timm_model

_COUNTER = "num_batches_tracked"
_SHOWN = 5  # tensors named in a message; the rest are counted


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array: its place and shape here, and its shape in timm."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    timm_shape: tuple[int, ...]


def from_timm_state_dict(
    state_dict: Mapping[str, np.ndarray], timm_name: str, **fields: Any
) -> dict[str, Any]:
    """Converts a PyTorch state dict to Flax variables.

    The state dict determines the numbers of classes and of image channels.

    Args:
      state_dict: Arrays of any floating dtype, by timm's tensor names.
      timm_name: Name of the network, one of `timm_model_names()`, with or without a tag.
      **fields: Fields of the network, where they differ from those of that name.

    Returns:
      The variables in float32, for the network that `create_timm_model` builds with the same name
      and fields. They are `params` and, where a layer keeps statistics, `batch_stats`.

    Raises:
      UserError: The network is unknown, or tensors are missing, too many, of the wrong shape, or
        not floating-point numbers. The message names the tensors.
    """
    modules = find_timm_model(timm_name).names
    tensors = timm_tensors(
        timm_name,
        _classes_of(state_dict, modules),
        _channels_of(state_dict, modules),
        **fields,
    )
    _check_same_tensors(state_dict, tensors, timm_name)
    flat = {
        tensor.path: _from_timm(np.asarray(state_dict[name]), tensor)
        for name, tensor in tensors.items()
    }
    return traverse_util.unflatten_dict(flat)


def to_timm_state_dict(
    variables: Mapping[str, Any], timm_name: str, **fields: Any
) -> dict[str, np.ndarray]:
    """Converts Flax variables to a PyTorch state dict; the inverse of `from_timm_state_dict`.

    Args:
      variables: Variables of the network: `params` and, where a layer keeps statistics,
        `batch_stats`.
      timm_name: Name of timm's network that the variables are for.
      **fields: Fields of the network, where they differ from those of that name.

    Returns:
      Contiguous float32 arrays by timm's tensor names; each `num_batches_tracked` is an int64 zero.

    Raises:
      UserError: The network is unknown, or arrays differ from its own; the message names them.
    """
    both = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    flat = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(both).items()}
    head = flat.get(("params", "head", "bias"))
    stem = flat.get(("params", "stem_conv", "kernel"), flat.get(("params", "stem_conv1", "kernel")))
    tensors = timm_tensors(
        timm_name,
        1000 if head is None else head.size,
        3 if stem is None else stem.shape[2],
        **fields,
    )
    _check_same_arrays(flat, tensors, timm_name)
    state_dict = {name: _to_timm(flat[tensor.path], tensor) for name, tensor in tensors.items()}
    return state_dict | {name: np.zeros((), np.int64) for name in _counters(tensors)}


def timm_tensors(
    timm_name: str, num_classes: int = 1000, channels: int = 3, **fields: Any
) -> dict[str, Tensor]:
    """Returns every tensor of one of timm's networks by its name there, without counters.

    >>> timm_tensors("resnet50")["fc.weight"]
    Tensor(path=('params', 'head', 'kernel'), shape=(2048, 1000), timm_shape=(1000, 2048))

    Raises:
      UserError: The network is unknown, or the fields lead to a network that timm does not have.
    """
    model = create_timm_model(timm_name, num_classes, **fields)
    modules = find_timm_model(timm_name).names
    # No parameter depends on the size of the image.
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        module = modules.to_timm("/".join(path[1:-1]))
        if module is None or path[-1] not in TENSOR_NAMES:
            raise UserError(
                f"{'/'.join(path)} has no place in timm's {timm_name}: the fields {fields} lead "
                "to a network that timm does not have."
            )
        timm_shape = _timm_shape(leaf.shape, dense=module in modules.dense)
        tensors[f"{module}.{TENSOR_NAMES[path[-1]]}"] = Tensor(path, leaf.shape, timm_shape)
    return tensors


def _timm_shape(shape: tuple[int, ...], *, dense: bool) -> tuple[int, ...]:
    if len(shape) == 1:
        return shape
    *window, features_in, features_out = shape
    return (features_out, features_in, *(window or ([] if dense else [1, 1])))


def _from_timm(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    array = array.astype(np.float32).reshape(tensor.timm_shape)
    if len(tensor.shape) == 1:
        return array
    # [out, in, k, k] -> [k, k, in, out]; a 1x1 window falls away where our layer is dense.
    moved = np.moveaxis(array, (1, 0), (-2, -1))
    return np.ascontiguousarray(moved.reshape(tensor.shape))


def _to_timm(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    array = array.astype(np.float32)
    if len(tensor.shape) > 1:
        array = np.moveaxis(array, (-2, -1), (1, 0))
    return np.ascontiguousarray(array.reshape(tensor.timm_shape))


def _counters(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the step counters beside the running means of PyTorch's BatchNorm."""
    return [
        name.removesuffix("running_mean") + _COUNTER
        for name in tensors
        if name.endswith(".running_mean")
    ]


def _classes_of(state_dict: Mapping[str, np.ndarray], modules: ModuleNames) -> int:
    bias = state_dict.get(f"{modules.to_timm('head')}.bias")
    return 1000 if bias is None else max(1, np.size(bias))


def _channels_of(state_dict: Mapping[str, np.ndarray], modules: ModuleNames) -> int:
    for stem in ("stem_conv1", "stem_conv"):
        kernel = state_dict.get(f"{modules.to_timm(stem)}.weight")
        if kernel is not None and np.ndim(kernel) == 4:
            return np.shape(kernel)[1]
    return 3


def _check_same_tensors(
    state_dict: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor], timm_name: str
) -> None:
    given = {name: np.asarray(array) for name, array in state_dict.items()}
    common = tensors.keys() & given.keys()
    faults = {
        "missing": [name for name in tensors if name not in given],
        "not of this network": sorted(given.keys() - tensors.keys() - set(_counters(tensors))),
        "of another shape": [
            f"{name} {shape_text(given[name].shape)}, not {shape_text(tensor.timm_shape)}"
            for name, tensor in tensors.items()
            if name in common and not _fits(given[name].shape, tensor)
        ],
        "not floating-point": [
            f"{name} {given[name].dtype}"
            for name in tensors
            if name in common and not jnp.issubdtype(given[name].dtype, jnp.floating)
        ],
    }
    raise_faults(
        faults,
        f"the tensors are not those of timm's {timm_name}",
        "Name the network that they were saved from",
    )


def _check_same_arrays(
    flat: Mapping[tuple[str, ...], np.ndarray], tensors: Mapping[str, Tensor], timm_name: str
) -> None:
    wanted = {tensor.path: tensor.shape for tensor in tensors.values()}
    faults = {
        "missing": ["/".join(path) for path in wanted if path not in flat],
        "not of this network": ["/".join(path) for path in flat if path not in wanted],
        "of another shape": [
            f"{'/'.join(path)} {shape_text(flat[path].shape)}, not {shape_text(shape)}"
            for path, shape in wanted.items()
            if path in flat and flat[path].shape != shape
        ],
    }
    raise_faults(
        faults,
        f"the variables are not those of timm's {timm_name}",
        "Take those of `create_timm_model` with this name",
    )


def raise_faults(faults: Mapping[str, list[str]], what: str, remedy: str) -> None:
    """Raises one `UserError` that lists the names of tensors by what is wrong with them."""
    found = {kind: names for kind, names in faults.items() if names}
    if found:
        lines = "\n".join(
            f"  {len(names)} {kind}: {_shorten(names)}" for kind, names in found.items()
        )
        raise UserError(f"{what}:\n{lines}\n{remedy}.")


def _fits(shape: tuple[int, ...], tensor: Tensor) -> bool:
    """Returns whether the shape is timm's; axes of length 1 around `[C]` and `[O, I]` are ignored.

    Older EvoNorm parameters are `[1, C, 1, 1]`; a classifier is a dense layer or a 1x1 convolution.
    """
    if len(tensor.shape) > 2:
        return shape == tensor.timm_shape
    return [n for n in shape if n > 1] == [n for n in tensor.timm_shape if n > 1]


def shape_text(shape: tuple[int, ...]) -> str:
    """Writes a shape as "64x3x7x7"."""
    return "x".join(map(str, shape)) or "a scalar"


def _shorten(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
