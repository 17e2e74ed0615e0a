"""The published generators of BigGAN-deep, from pytorch-pretrained-biggan's weights.

That package holds the graph. The weights that DeepMind published for 128, 256 and 512 pixels come
separately, without those of the discriminators. Each file is a pickle, to be converted once:

    import torch, safetensors.torch
    weights = torch.load("biggan-deep-128-pytorch_model.bin", weights_only=True)
    safetensors.torch.save_file(weights, "biggan-deep-128.safetensors")

Batch statistics are stored for 51 truncations of the noise from 0 to 1, so the truncation is chosen
here; the noise to go with it is `truncation * x`, x normal and cut off at -2 and 2. Between two
truncations the statistics are interpolated linearly. (That package does so too, but gives the
nearer truncation the smaller weight.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.gan.create import Gan, create_gan
from evonorm_jax.gan.spectral_norm import COLLECTION
from evonorm_jax.gan.stages import FIRST_SIZE, STAGES
from evonorm_jax.interop.safetensors_file import read_safetensors
from evonorm_jax.interop.state_dict import raise_faults, shape_text

#: Of the batch normalisation and the spectral one, in the published graph.
EPSILON = 1e-4

_NON_LOCAL = {"theta": "theta", "phi": "phi", "g": "g", "output": "o_conv"}


def load_biggan_weights(path: str | Path, *, truncation: float = 1.0) -> tuple[Gan, dict[str, Any]]:
    """Creates both players as published, and reads the variables of the generator.

        gan, variables = load_biggan_weights("biggan-deep-128.safetensors", truncation=0.4)
        images = gan.generator.apply(variables, z, labels)

    Args:
      path: Safetensors file with the state dict.
      truncation: Truncation of the noise that the batch statistics belong to, above 0 and at most
        1.

    Returns:
      The GAN, with the size and width of the file, and the variables as NumPy arrays.

    Raises:
      UserError: The file is not there or holds other tensors, which the message names; the
        truncation is out of range; or `safetensors` is not installed.
    """
    state_dict = read_safetensors(path)
    try:
        return from_biggan_state_dict(state_dict, truncation=truncation)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_biggan_state_dict(
    state_dict: Mapping[str, np.ndarray], *, truncation: float = 1.0
) -> tuple[Gan, dict[str, Any]]:
    """Converts arrays by tensor name to what `load_biggan_weights` returns.

    Raises:
      UserError: The tensors are others than those of such a generator, or the truncation is out of
        range.
    """
    if not 0 < truncation <= 1:
        raise UserError(f"truncation={truncation}: expected a number above 0 and at most 1.")
    gan = _network_of(state_dict)
    z, labels, _ = gan.shapes()
    shapes = jax.eval_shape(gan.generator.network.init, jax.random.key(0), z, labels)
    modules = dict(_module_names(gan))
    params = traverse_util.flatten_dict(shapes["params"])
    stats = traverse_util.flatten_dict(shapes["batch_stats"])
    names = {path: _tensor_name(path, modules) for path in (*params, *stats)}
    _check_tensors(
        state_dict,
        {names[path]: leaf.shape for path, leaf in params.items()},
        {names[path]: leaf.shape for path, leaf in stats.items()},
    )

    def tensor(name: str) -> np.ndarray:
        return np.asarray(state_dict[name], np.float32)

    flat = {path: _from_torch(tensor(names[path]), leaf.shape) for path, leaf in params.items()}
    spectral: dict[str, dict[str, np.ndarray]] = {}
    for group, paths in gan.generator.groups(shapes["params"]).items():
        module = [names[path].removesuffix("weight_orig") for path in paths]
        spectral[group] = {
            "u": np.stack([tensor(f"{name}weight_u") for name in module]),
            "v": np.stack(
                [
                    _order_inputs(tensor(f"{name}weight_v"), params[path].shape)
                    for name, path in zip(module, paths, strict=True)
                ]
            ),
        }
    averages = {path: _at_truncation(tensor(names[path]), truncation) for path in stats}
    return gan, {
        "params": traverse_util.unflatten_dict(flat),
        "batch_stats": traverse_util.unflatten_dict(averages),
        COLLECTION: spectral,
    }


def _network_of(state_dict: Mapping[str, np.ndarray]) -> Gan:
    """Returns the GAN whose generator has these tensors."""
    embedding = np.shape(state_dict.get("embeddings.weight", ()))
    linear = np.shape(state_dict.get("generator.gen_z.weight_orig", ()))
    blocks = sum(name.endswith(".conv_0.weight_orig") for name in state_dict)
    sizes = {2 * (len(stages.generator) - 1): size for size, stages in STAGES.items()}
    size = sizes.get(blocks)
    if len(embedding) != 2 or len(linear) != 2 or size is None or 16 not in STAGES[size].generator:
        raise UserError(
            f"not a generator of pytorch-pretrained-biggan that exists here: {blocks} blocks, "
            f"embeddings.weight {shape_text(embedding)}, gen_z {shape_text(linear)}. Those for "
            "128 and 256 pixels have 10 and 12 blocks."
        )
    width = max(1, linear[0] // 256)
    return create_gan(
        f"biggan_deep_{size}",
        embedding[1],
        norm_act="bn_relu",
        norm_act_fields={"epsilon": EPSILON},
        num_filters=width,
        z_dim=linear[1] - embedding[0],
        embedding_dim=embedding[0],
        head_features=width,
        spectral_epsilon=EPSILON,
    )


def _module_names(gan: Gan) -> Iterator[tuple[str, str]]:
    """Yields the name of each module here with its name there."""
    yield "class_embedding", "embeddings"
    yield "linear", "generator.gen_z"
    yield "head_norm", "generator.bn"
    yield "head_conv", "generator.conv_to_rgb"
    network = gan.generator.network
    index = 0
    for stage in range(1, len(network.widths)):
        for block in (1, 2):
            here, there = f"stage{stage}_block{block}", f"generator.layers.{index}"
            for k in range(4):
                yield f"{here}/conv{k + 1}", f"{there}.conv_{k}"
                yield f"{here}/norm{k + 1}/norm_act", f"{there}.bn_{k}"
                yield f"{here}/norm{k + 1}/scale", f"{there}.bn_{k}.scale"
                yield f"{here}/norm{k + 1}/bias", f"{there}.bn_{k}.offset"
            index += 1
        if FIRST_SIZE * 2**stage == network.attention_size:
            yield "non_local", f"generator.layers.{index}"
            for name, torch_name in _NON_LOCAL.items():
                yield f"non_local/{name}", f"generator.layers.{index}.snconv1x1_{torch_name}"
            index += 1


def _tensor_name(path: tuple[str, ...], modules: Mapping[str, str]) -> str:
    names = {
        "kernel": "weight_orig",
        "embedding": "weight",
        "scale": "weight",
        "mean": "running_means",
        "var": "running_vars",
    }
    return f"{modules['/'.join(path[:-1])]}.{names.get(path[-1], path[-1])}"


def _check_tensors(
    state_dict: Mapping[str, np.ndarray],
    params: Mapping[str, tuple[int, ...]],
    stats: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises unless the names and shapes are those of our parameters and statistics."""
    wanted = {name: _torch_shape(shape) for name, shape in params.items()}
    for name, shape in params.items():
        if name.endswith("weight_orig"):
            wanted[name.replace("weight_orig", "weight_u")] = shape[-1:]
            wanted[name.replace("weight_orig", "weight_v")] = (math.prod(shape[:-1]),)
    given = {name: np.shape(array) for name, array in state_dict.items()}
    # As many rows of statistics as there are truncations.
    rows = {given[name][:1] for name in stats if len(given.get(name, ())) == 2}
    wanted |= {name: (*max(rows, default=(51,)), *shape) for name, shape in stats.items()}
    raise_faults(
        {
            "missing": sorted(wanted.keys() - given.keys()),
            "not of this network": sorted(given.keys() - wanted.keys()),
            "of another shape": [
                f"{name} {shape_text(given[name])}, not {shape_text(shape)}"
                for name, shape in wanted.items()
                if name in given and given[name] != shape
            ],
        },
        "the tensors are not those of a BigGAN-deep generator",
        "Take the state dict of a BigGAN of pytorch-pretrained-biggan",
    )


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2:
        return shape or (1,)
    *window, features_in, features_out = shape
    return (features_out, features_in, *window)


def _from_torch(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Converts [out, in, k, k] to [k, k, in, out], [out, in] to [in, out], and [1] to []."""
    if len(shape) < 2:
        return array.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)))


def _order_inputs(v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reorders v from (in, k, k) to (k, k, in), for a kernel of that shape here."""
    *window, features_in, _ = shape
    return np.moveaxis(v.reshape(features_in, *window), 0, -1).ravel()


def _at_truncation(statistics: np.ndarray, truncation: float) -> np.ndarray:
    """Interpolates statistics `[51, C]` to `[C]`; row i is for a truncation of i / 50."""
    # Rounded, because 0.58 * 50 is 28.999999999999996.
    position = round(truncation * (len(statistics) - 1), 6)
    low = int(position)
    high = min(low + 1, len(statistics) - 1)
    share = np.float32(position - low)
    return (1 - share) * statistics[low] + share * statistics[high]
