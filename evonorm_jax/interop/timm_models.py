"""Those of timm's networks that have a twin here, and the fields that make it one.

Padding, epsilon and groups follow timm: its BatchNorm has epsilon 1e-5 and its convolutions pad by
the kernel size, except in `tf_efficientnet_*`, whose weights come from TensorFlow (1e-3, "same");
its EvoNorm-S0 has 32 groups and epsilon 1e-5. MobileNetV2 has ReLU6.

>>> sorted(TIMM_MODELS["resnetv2_50d_evos"].fields.items())
[('avg_down', True), ('stem', 'imagenet_deep')]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.interop import names
from evonorm_jax.interop.names import ModuleNames
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import accepts_field


@dataclasses.dataclass(frozen=True)
class TimmModel:
    """The twin of one of timm's networks.

    Attributes:
      model: Name of the network here, for `create_model`.
      norm_act: Name of its norm-activation layer here.
      norm_act_fields: Fields of the layer.
      names: Names of the network's modules in timm.
      fields: Fields of the network.
    """

    model: str
    norm_act: str
    norm_act_fields: Mapping[str, Any]
    names: ModuleNames
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_TORCH_BN = MappingProxyType({"epsilon": 1e-5, "momentum": 0.9})
_TENSORFLOW_BN = MappingProxyType({"epsilon": 1e-3, "momentum": 0.9})
_GROUPS = MappingProxyType({"epsilon": 1e-5, "num_groups": 32})
_D = MappingProxyType({"stem": "imagenet_deep", "avg_down": True})
_SAME = MappingProxyType({"padding": "same"})

#: timm's name -> its twin here.
TIMM_MODELS: Mapping[str, TimmModel] = MappingProxyType(
    {
        "resnet18": TimmModel("resnet18_v1", "bn_relu", _TORCH_BN, names.RESNET_V1),
        "resnet34": TimmModel("resnet34_v1", "bn_relu", _TORCH_BN, names.RESNET_V1),
        "resnet50": TimmModel("resnet50_v1", "bn_relu", _TORCH_BN, names.RESNET_V1),
        "resnet50d": TimmModel("resnet50_v1", "bn_relu", _TORCH_BN, names.RESNET_V1_D, _D),
        "resnet101": TimmModel("resnet101_v1", "bn_relu", _TORCH_BN, names.RESNET_V1),
        "resnet152": TimmModel("resnet152_v1", "bn_relu", _TORCH_BN, names.RESNET_V1),
        "resnetv2_50": TimmModel("resnet50", "bn_relu", _TORCH_BN, names.RESNET_V2),
        "resnetv2_50d": TimmModel("resnet50", "bn_relu", _TORCH_BN, names.RESNET_V2, _D),
        "resnetv2_50d_gn": TimmModel("resnet50", "gn_relu", _GROUPS, names.RESNET_V2, _D),
        "resnetv2_50d_evos": TimmModel("resnet50", "evonorm_s0", _GROUPS, names.RESNET_V2, _D),
        "resnetv2_101": TimmModel("resnet101", "bn_relu", _TORCH_BN, names.RESNET_V2),
        "mobilenetv2_050": TimmModel(
            "mobilenet_v2", "bn_relu6", _TORCH_BN, names.MOBILE, {"width_multiplier": 0.5}
        ),
        "mobilenetv2_100": TimmModel("mobilenet_v2", "bn_relu6", _TORCH_BN, names.MOBILE),
        "mobilenetv2_140": TimmModel(
            "mobilenet_v2", "bn_relu6", _TORCH_BN, names.MOBILE, {"width_multiplier": 1.4}
        ),
        "mnasnet_100": TimmModel("mnasnet_b1", "bn_relu", _TORCH_BN, names.MOBILE),
        **{
            f"efficientnet_b{i}": TimmModel(
                f"efficientnet_b{i}", "bn_silu", _TORCH_BN, names.MOBILE
            )
            for i in range(8)
        },
        **{
            f"tf_efficientnet_b{i}": TimmModel(
                f"efficientnet_b{i}", "bn_silu", _TENSORFLOW_BN, names.MOBILE, _SAME
            )
            for i in range(8)
        },
    }
)


def timm_model_names() -> tuple[str, ...]:
    """Returns the names of timm's networks that have a twin here."""
    return tuple(TIMM_MODELS)


def find_timm_model(name: str) -> TimmModel:
    """Returns the row of `TIMM_MODELS` for a name.

    A tag of pretrained weights, as in `resnet50.a1_in1k`, is ignored.

    Raises:
      UserError: The network has no twin here; the message lists those that have one.
    """
    architecture = name.partition(".")[0]
    if architecture in TIMM_MODELS:
        return TIMM_MODELS[architecture]
    hint = did_you_mean(architecture, TIMM_MODELS)
    raise UserError(
        f"timm's {name!r} has no counterpart here.{hint} Known: {', '.join(TIMM_MODELS)}."
    )


def check_twin(model: nn.Module, name: str, **fields: Any) -> None:
    """Refuses a network that computes something else than timm's network of that name.

    Most such differences (epsilon, padding, the pool of a shortcut) change no tensor: the weights
    would fit, and the accuracy be lost. Dropout, dtype and classes may differ.

    Args:
      model: Network from `create_model`.
      name: Name of timm's network, one of `timm_model_names()`.
      **fields: Fields of the network, where they may differ from those of that name.

    Raises:
      UserError: The networks differ; the message names the fields in which they do, and says how
        timm's network is made.
    """
    row = find_timm_model(name)
    ours = _what_it_computes(model)
    theirs = _what_it_computes(create_timm_model(name, **fields))
    if ours != theirs:
        differing = ", ".join(
            f"{key} is {ours.get(key)!r}, not {theirs.get(key)!r}"
            for key in theirs | ours
            if ours.get(key) != theirs.get(key)
        )
        raise UserError(
            f"the network is not timm's {name}: {differing}. That one has the model name "
            f"{row.model!r}, the norm_act {row.norm_act!r}, the norm_act_fields "
            f"{dict(row.norm_act_fields)} and the fields {dict(row.fields)}."
        )


def _what_it_computes(model: nn.Module) -> dict[str, Any]:
    """Returns the fields of a network and of its layer on which the logits depend."""
    rest = {"num_classes", "norm_act", "dtype", "dropout_rate", "survival_probability"}
    network = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in rest | {"parent", "name"}
    }
    layer = model.norm_act()
    formula: dict[str, Any] = {"network": type(model).__name__, "norm_act": type(layer).__name__}
    formula["epsilon"] = getattr(layer, "epsilon", None)
    if accepts_field(model.norm_act, "group_size"):
        formula["group_size"] = layer.group_size
        formula["num_groups"] = layer.num_groups or (None if layer.group_size else 32)
    return formula | network


def create_timm_model(
    name: str, num_classes: int = 1000, dtype: Dtype = jnp.float32, **fields: Any
) -> nn.Module:
    """Builds the network that computes what timm's network of that name computes.

    Args:
      name: Name of timm's network, one of `timm_model_names()`; a tag of pretrained weights after
        a dot is ignored.
      num_classes: Number of classes, which is the width of the logits.
      dtype: Dtype of convolutions and layers.
      **fields: Further fields of the network, such as `dropout_rate=0.2`; they override those of
        its row in `TIMM_MODELS`.

    Raises:
      UserError: The name is unknown, or `evonorm_jax.create_model` refuses the arguments.

    >>> model = create_timm_model("resnetv2_50d_evos", num_classes=10)
    >>> model.stem, model.avg_down, model.norm_act().num_groups
    ('imagenet_deep', True, 32)
    """
    row = find_timm_model(name)
    return create_model(
        row.model,
        num_classes,
        norm_act=row.norm_act,
        dtype=dtype,
        norm_act_fields=row.norm_act_fields,
        **{**row.fields, **fields},
    )
