"""The networks of a config, whose layer knows which batch statistics belong together."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.gan import Gan, create_gan
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import accepts_field, norm_act, resolve_norm_act
from evonorm_jax.training.parallel import WorkerLayout

if TYPE_CHECKING:
    import ml_collections

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
    config: ml_collections.ConfigDict, num_classes: int, layout: WorkerLayout | None = None
) -> nn.Module:
    """Makes the classifier of a config.

    Args:
      config: Its `model`, `dtype` and workers are read.
      num_classes: Width of the logits.
      layout: The workers in training; None for a network that only evaluates.

    Raises:
      UserError: There is no such network, layer, field or dtype, or the run sets a field itself.
    """
    return create_model(
        config.model.name,
        num_classes=num_classes,
        norm_act=bind_layer(config, layout),
        dtype=find_dtype(config),
        **config.model.fields.to_dict(),
    )


def build_gan(
    config: ml_collections.ConfigDict, num_classes: int, layout: WorkerLayout | None = None
) -> Gan:
    """Makes the players of a config.

    Args:
      config: Its `model`, `dtype`, `dataset` and workers are read.
      num_classes: Number of classes of the data set.
      layout: The workers in training; None for players that only evaluate.

    Raises:
      UserError: There is no such network, layer, field or dtype, or the run sets a field itself.
    """
    fields = config.model.fields.to_dict()
    own = {"image_channels", "norm_act_fields"}  # from the data set; beside `fields`
    known = [
        name
        for name, parameter in inspect.signature(create_gan).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in own
    ]
    if unknown := sorted(set(fields) - set(known)):
        raise UserError(
            f"config.model.fields.{unknown[0]}: {config.model.name} has no such field."
            f"{did_you_mean(unknown[0], known)} It has: {', '.join(known)}."
        )
    return create_gan(
        config.model.name,
        num_classes,
        norm_act=bind_layer(config, layout),
        dtype=find_dtype(config),
        image_channels=len(config.dataset.mean),
        **fields,
    )


def bind_layer(
    config: ml_collections.ConfigDict, layout: WorkerLayout | None = None
) -> functools.partial[Any]:
    """Makes the layer of a config, which takes its batch statistics as the workers lie.

    Args:
      config: Its `model` and workers are read.
      layout: The workers in training; None for a network that only evaluates.

    Raises:
      UserError: There is no such layer or field, or the run sets a field itself.
    """
    fields = config.model.norm_act_fields.to_dict()
    layer = norm_act(config.model.norm_act, **fields)
    for name in ("virtual_batch_size", "axis_name", "axis_index_groups"):
        if name in fields:
            raise UserError(
                f"config.model.norm_act_fields.{name} is set by the run itself: choose "
                "config.images_per_worker and config.num_workers, or config.sync_batch_stats."
            )
        value = getattr(layout, name, None)
        if value is not None and accepts_field(layer, name):
            layer = functools.partial(layer, **{name: value})
    if layout is not None and accepts_field(layer, "virtual_batch_size"):
        _check_accumulation(config, layout)
    return layer


def find_dtype(config: ml_collections.ConfigDict) -> Any:
    """Returns `config.dtype` as a dtype of JAX.

    Raises:
      UserError: It is an unknown one.
    """
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype={config.dtype!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[config.dtype]


def inline_layer(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Puts the graph of a searched layer in the place of its file; other configs stay as they are.

    So a run directory holds all of its network, and a file that has changed is noticed.

    Raises:
      UserError: The file is not there or holds no graph.
    """
    name = resolve_norm_act(config.model.norm_act)
    if name == config.model.norm_act:
        return config
    config = config.copy_and_resolve_references()
    config.model.norm_act = name
    return config


def _check_accumulation(config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
    """Refuses micro-batches that would split the batch whose statistics are taken together."""
    accumulation, virtual = config.get("gradient_accumulation_steps", 1), layout.virtual_batch_size
    micro_batch = layout.per_device // accumulation
    if accumulation > 1 and (virtual is None or micro_batch % virtual):
        raise UserError(
            f"config.gradient_accumulation_steps={accumulation} would split the "
            f"{config.images_per_worker} images whose batch statistics {config.model.norm_act} "
            f"takes together ({layout.per_device} images per device). Use more workers of fewer "
            "images (config.num_workers, config.images_per_worker), or a layer without batch "
            "statistics such as evonorm_s0."
        )
