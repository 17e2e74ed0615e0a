"""Networks by name, as in `create_model("resnet50", 1000, norm_act="evonorm_s0")`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.errors import UserError, did_you_mean
from evonorm_jax.models import (
    cifar_resnet,
    efficientnet,
    mnasnet,
    mobilenet_v2,
    resnet,
    resnet_v1,
)
from evonorm_jax.norm_act import LayerLike
from evonorm_jax.norm_act import norm_act as bind_layer

_CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet.ResNet18,
    "resnet34": resnet.ResNet34,
    "resnet50": resnet.ResNet50,
    "resnet101": resnet.ResNet101,
    "resnet152": resnet.ResNet152,
    "resnet200": resnet.ResNet200,
    "resnet18_v1": resnet_v1.ResNet18V1,
    "resnet34_v1": resnet_v1.ResNet34V1,
    "resnet50_v1": resnet_v1.ResNet50V1,
    "resnet101_v1": resnet_v1.ResNet101V1,
    "resnet152_v1": resnet_v1.ResNet152V1,
    "cifar_resnet20": cifar_resnet.CifarResNet20,
    "cifar_resnet32": cifar_resnet.CifarResNet32,
    "cifar_resnet56": cifar_resnet.CifarResNet56,
    "cifar_resnet110": cifar_resnet.CifarResNet110,
    "mobilenet_v2": mobilenet_v2.MobileNetV2,
    "mnasnet_b1": mnasnet.MnasNetB1,
    **{name: efficientnet.scaled(name) for name in efficientnet.SCALINGS},
    "resnet50_cifar": resnet.ResNet50Cifar,
    "mobilenet_v2_cifar": mobilenet_v2.MobileNetV2Cifar,
    "efficientnet_b0_cifar": efficientnet.EfficientNetB0Cifar,
}


def model_names() -> tuple[str, ...]:
    """Returns the names that `create_model` accepts."""
    return tuple(_CONSTRUCTORS)


def native_image_size(name: str) -> int:
    """Returns the height and width in pixels of the images that a network was designed for.

    >>> native_image_size("resnet50"), native_image_size("efficientnet_b5")
    (224, 456)

    Raises:
      UserError: The name is unknown.
    """
    find(name, _CONSTRUCTORS, kind="model")
    if name in efficientnet.SCALINGS:
        return efficientnet.SCALINGS[name].image_size
    return 32 if "cifar" in name else 224


def create_model(
    name: str,
    num_classes: int | None,
    norm_act: LayerLike = "evonorm_s0",
    dtype: Dtype = jnp.float32,
    norm_act_fields: Mapping[str, Any] | None = None,
    **fields: Any,
) -> nn.Module:
    """Builds a network that takes all its normalisations and activations from `norm_act`.

    The module is called as `model.apply(variables, images, train=..., mutable=["batch_stats"]
    if train else False, rngs={"dropout": key})` on float images `[N, H, W, C]` and returns
    float32 logits `[N, num_classes]`. Parameters are float32 whatever the dtype. With
    `features=True` it returns the input of its last layer instead, the pooled features `[N, C]` in
    float32; C is 512 for resnet18 and 34, 2048 for the deeper ones, 64 for `cifar_resnet*`, and
    1280 for mobilenet_v2, mnasnet_b1 and efficientnet_b0.

    Args:
      name: One of `model_names()`.
      num_classes: Width of the logits. 0 makes a network without its last layer, which returns
        pooled features. None makes a ResNet a backbone, which returns its feature maps by level
        (`evonorm_jax.models.resnet.FeatureMaps`).
      norm_act: Layer, given as its name, its class or a factory (`evonorm_jax.norm_act`).
      dtype: Floating-point dtype of convolutions and layers, as a type or by name.
      norm_act_fields: Fields of the layer, such as `{"virtual_batch_size": 32}`.
      **fields: Fields of the network, such as `num_filters=16` or `dropout_rate=0.2`.

    Raises:
      UserError: A name or field is unknown, a value is out of range, or the network cannot hold the
        layer.

    >>> import jax, jax.numpy as jnp
    >>> model = create_model("cifar_resnet20", 10, norm_act="evonorm_b0", dtype=jnp.bfloat16)
    >>> images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> variables["batch_stats"]["stage1_block1"]["norm1"]
    {'var': ShapeDtypeStruct(shape=(16,), dtype=float32)}
    >>> jax.eval_shape(lambda v, x: model.apply(v, x, features=True), variables, images)
    ShapeDtypeStruct(shape=(8, 64), dtype=float32)
    """
    constructor = find(name, _CONSTRUCTORS, kind="model")
    known_fields = settable_fields(constructor)
    for field in fields:
        find(field, known_fields, kind=f"field of {name}")
    return constructor(
        num_classes=num_classes,
        norm_act=bind_layer(norm_act, **(norm_act_fields or {})),
        dtype=float_dtype(dtype),
        **fields,
    )


def find(key: str, table: Mapping[str, Any], *, kind: str) -> Any:
    """Returns `table[key]`, or raises a `UserError` that lists the keys and the closest one."""
    if key in table:
        return table[key]
    hint = did_you_mean(key, table)
    raise UserError(f"unknown {kind}: {key!r}.{hint} Known: {', '.join(table)}.")


def settable_fields(constructor: Callable[..., nn.Module]) -> dict[str, dataclasses.Field]:
    """Returns the fields of a network that a user sets by name, without those that all have."""
    module: Any = getattr(constructor, "func", constructor)
    own = {"num_classes", "norm_act", "dtype", "parent", "name"}
    return {field.name: field for field in dataclasses.fields(module) if field.name not in own}


def float_dtype(dtype: Dtype) -> Any:
    """Returns the floating-point dtype that `dtype` stands for, or raises `UserError`."""
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:
        resolved = None
    if resolved is None or not jnp.issubdtype(resolved, jnp.floating):
        raise UserError(
            f"dtype={dtype!r}: expected a floating-point dtype such as float32 or bfloat16."
        )
    return resolved
