"""Name -> detector: `create_detector("maskrcnn_r50_fpn", norm_act="evonorm_s0")`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.detection.mask_rcnn import MaskRCNN
from evonorm_jax.models import resnet, resnet_v1, spinenet
from evonorm_jax.models.registry import find, float_dtype, settable_fields
from evonorm_jax.norm_act import LayerLike
from evonorm_jax.norm_act import norm_act as bind_layer


class _Recipe(NamedTuple):
    backbone: Callable[..., nn.Module]
    fields: Mapping[str, Any]  # of MaskRCNN


def _post_activation(network: Callable[..., nn.Module]) -> _Recipe:
    return _Recipe(functools.partial(network, num_classes=None, residual_norm="affine"), {})


def _pre_activation(network: Callable[..., nn.Module]) -> _Recipe:
    return _Recipe(functools.partial(network, num_classes=None), {})


def _spinenet(network: Callable[..., nn.Module], **fields: Any) -> _Recipe:
    on_levels = {"use_fpn": False, "min_level": 3, "max_level": 7, "anchor_scale": 3.0}
    return _Recipe(functools.partial(network, residual_norm="affine"), on_levels | fields)


# The widths of SpineNet-49S and 190 and the anchors of the latter: the authors' configs
# (tensorflow/tpu, models/official/detection/configs/spinenet).
_RECIPES: Mapping[str, _Recipe] = MappingProxyType(
    {
        "maskrcnn_r18_fpn": _post_activation(resnet_v1.ResNet18V1),
        "maskrcnn_r50_fpn": _post_activation(resnet_v1.ResNet50V1),
        "maskrcnn_r101_fpn": _post_activation(resnet_v1.ResNet101V1),
        "maskrcnn_r18_preact_fpn": _pre_activation(resnet.ResNet18),
        "maskrcnn_r50_preact_fpn": _pre_activation(resnet.ResNet50),
        "maskrcnn_r101_preact_fpn": _pre_activation(resnet.ResNet101),
        "maskrcnn_spinenet49s": _spinenet(
            spinenet.SpineNet49S, rpn_filters=128, head_filters=128, head_units=512
        ),
        "maskrcnn_spinenet49": _spinenet(spinenet.SpineNet49),
        "maskrcnn_spinenet96": _spinenet(spinenet.SpineNet96),
        "maskrcnn_spinenet143": _spinenet(spinenet.SpineNet143),
        "maskrcnn_spinenet190": _spinenet(
            spinenet.SpineNet190,
            rpn_filters=384,
            rpn_num_convs=7,
            head_filters=384,
            head_num_convs=7,
            anchor_scale=5.0,
        ),
    }
)


def detector_names() -> tuple[str, ...]:
    """Returns the names that `create_detector` accepts."""
    return tuple(_RECIPES)


def create_detector(
    name: str,
    num_classes: int = 91,
    norm_act: LayerLike = "evonorm_s0",
    dtype: Dtype = jnp.float32,
    norm_act_fields: Mapping[str, Any] | None = None,
    backbone_fields: Mapping[str, Any] | None = None,
    **fields: Any,
) -> MaskRCNN:
    """Builds a Mask R-CNN with all normalisations and activations from `norm_act`.

    The layer stands in the backbone, the pyramid and all heads. Where no activation follows, it is
    the norm alone, or for a layer that fuses the two (EvoNorm) its affine map alone. Parameters are
    float32 whatever the dtype.

    Args:
      name: One of `detector_names()`. `_preact` marks pre-activation backbones, which normalise
        their residual branches with EvoNorm too but are not the ones of the paper's Table 4.
      num_classes: Number of classes with the background, which is class 0: 91 for COCO's ids 1 to
        90.
      norm_act: Norm-activation layer, given by its name, its class or a factory
        (`evonorm_jax.norm_act`).
      dtype: Floating-point dtype of convolutions and layers, as a type or by name.
      norm_act_fields: Fields of the layer, such as `{"virtual_batch_size": 8}`, in images.
      backbone_fields: Fields of the backbone, such as `{"num_filters": 16}`.
      **fields: Fields of `MaskRCNN`, such as `box_samples=128` or `max_detections=400`.

    Raises:
      UserError: The name or a field is unknown, a value is out of range, or the network cannot hold
        the layer.

    >>> detector = create_detector("maskrcnn_r50_fpn", norm_act="evonorm_s0")
    >>> detector.num_parameters(image_size=256)
    46379313
    """
    recipe = find(name, _RECIPES, kind="detector")
    _check_known(fields, MaskRCNN, kind=f"field of {name}")
    _check_known(backbone_fields or {}, recipe.backbone, kind=f"field of the backbone of {name}")
    layer = bind_layer(norm_act, **(norm_act_fields or {}))
    dtype = float_dtype(dtype)
    backbone = recipe.backbone(norm_act=layer, dtype=dtype, **(backbone_fields or {}))
    return MaskRCNN(
        backbone=backbone,
        num_classes=num_classes,
        norm_act=layer,
        dtype=dtype,
        **{**recipe.fields, **fields},
    )


def _check_known(given: Iterable[str], constructor: Callable[..., nn.Module], *, kind: str) -> None:
    """Raises `UserError` where a given field is none of the module."""
    known = {
        name: spec for name, spec in settable_fields(constructor).items() if name != "backbone"
    }
    for field in given:
        find(field, known, kind=kind)
