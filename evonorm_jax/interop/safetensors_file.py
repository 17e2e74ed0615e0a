"""Weights in safetensors files, the format of timm's published weights, never in pickles.

A safetensors file is a JSON header and plain arrays: reading one runs no code, whoever made it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy the name bfloat16, which safetensors uses)
import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.input_files import check_regular
from evonorm_jax.interop.pretrained import PRETRAINED
from evonorm_jax.interop.state_dict import from_timm_state_dict, to_timm_state_dict
from evonorm_jax.run_files import replacing

_DTYPES = (
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64"),
)
_DAMAGED = (
    "{path} is not a safetensors file, or a damaged one ({error}). Download or export it again, or "
    "name another."
)
_PICKLES = (".bin", ".pt", ".pth", ".pyth", ".tar")


def load_timm_weights(path: str | Path, timm_name: str, **fields: Any) -> dict[str, Any]:
    """Reads timm's or PyTorch's weights as Flax variables.

    For example::

        variables = load_timm_weights("resnet50.safetensors", "resnet50")
        logits = create_timm_model("resnet50").apply(variables, images, train=False)

    Args:
      path: Safetensors file with the state dict of the network.
      timm_name: Name of the network, one of `timm_model_names()`, with or without a tag
        (`resnet50.a1_in1k`).
      **fields: Fields of the network, where they differ from those of that name.

    Returns:
      The variables `params` and, where a layer keeps statistics, `batch_stats`, as float32 NumPy
      arrays. The number of classes is that of the file.

    Raises:
      UserError: The file is not there, is no safetensors file or holds another network's tensors,
        which the message names; the network is unknown; or `safetensors` is not installed.
    """
    if timm_name in PRETRAINED and not Path(path).exists():
        raise UserError(
            f"{path} is not there. On a machine with a network, `python -m "
            f"experiments.prepare_data --weights {timm_name}` downloads these weights; then name "
            f"their file, weights/{timm_name}.safetensors."
        )
    state_dict = read_safetensors(path)
    try:
        return from_timm_state_dict(state_dict, timm_name, **fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def save_timm_weights(
    variables: Mapping[str, Any], path: str | Path, timm_name: str, **fields: Any
) -> None:
    """Writes Flax variables as timm's and PyTorch's weights, readable by `timm.create_model`.

    In Python with timm:

        timm.create_model("resnet50", checkpoint_path="resnet50.safetensors")

    Args:
      variables: Variables of the network: `params` and, where a layer keeps statistics,
        `batch_stats`.
      path: File to write.
      timm_name: Name of timm's network that the variables are for.
      **fields: Fields of the network, where they differ from those of that name.

    Raises:
      UserError: The variables are those of another network, the network is unknown, the file
        cannot be written, or `safetensors` is not installed.
    """
    write_safetensors(to_timm_state_dict(variables, timm_name, **fields), path)


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a safetensors file by tensor name.

    Raises:
      UserError: The file is not there, is a pickle, no safetensors file or a damaged one; a tensor
        has a type that NumPy lacks, such as float8, or values that are not finite as float32; or
        `safetensors` is not installed.
    """
    path = Path(path)
    safetensors = _import_safetensors()
    if os.path.isdir(path) or not os.path.lexists(path):
        what = "is a folder" if os.path.isdir(path) else "is not there"
        raise UserError(f"{path} {what}; name a .safetensors file.")
    check_regular(path)
    if path.suffix in _PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run anything when it is read. Where you trust it, "
            "convert it with PyTorch: safetensors.torch.save_file(torch.load(path, "
            "weights_only=True), 'weights.safetensors')."
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        unknown = {name: kind for name, kind in types.items() if kind not in _DTYPES}
        tensors = {} if unknown else safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise UserError(_DAMAGED.format(path=path, error=error)) from error
    if unknown:
        name, kind = next(iter(unknown.items()))
        raise UserError(
            f"{path}: tensor {name!r} is {kind}, as are {len(unknown)} of {len(types)}, which NumPy"
            f" cannot hold: convert them to float32 ({', '.join(_DTYPES)} are read)."
        )
    check_finite(tensors, str(path))
    return tensors


def check_finite(tensors: Mapping[str, Any], source: str) -> None:
    """Refuses weights that are not finite as float32, which every network here computes in.

    Args:
      tensors: Arrays of any type by their names.
      source: Where they come from, for the message.

    Raises:
      UserError: Some are not finite; the first is named.
    """
    bad = {}
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.asarray(tensor).astype(np.float32))
        if not finite.all():
            bad[name] = f"{finite.size - np.count_nonzero(finite):,} of {finite.size:,} values"
    if bad:
        name, values = next(iter(bad.items()))
        raise UserError(
            f"{source}: {len(bad)} of {len(tensors)} tensors are not finite as float32,"
            f" the first is {name!r} ({values}). The training that wrote them has diverged, or the"
            " file is damaged: take other weights."
        )


def read_metadata(path: str | Path) -> dict[str, str]:
    """Reads the metadata of a safetensors file without its arrays; `{}` where it has none.

    Raises:
      UserError: It is no safetensors file, or `safetensors` is not installed.
    """
    safetensors = _import_safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(_DAMAGED.format(path=path, error=error)) from error


def write_safetensors(
    tensors: Mapping[str, np.ndarray],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays as a safetensors file.

    Args:
      tensors: The arrays.
      path: File to write.
      metadata: Texts by name; by default the format, which PyTorch's readers ask for.

    Raises:
      UserError: The file cannot be written, or `safetensors` is not installed.
    """
    safetensors = _import_safetensors()
    try:
        # Not `save_file`, whose files only their owner may read, whatever the umask says.
        content = safetensors.numpy.save(dict(tensors), metadata=dict(metadata or {"format": "pt"}))
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}).") from error


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise UserError(
            "Reading and writing safetensors files needs the package safetensors: "
            "in the clone, pip install -e '.[interop]'; elsewhere, pip install safetensors."
        ) from error
    return safetensors
