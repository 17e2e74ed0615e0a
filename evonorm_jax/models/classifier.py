"""The parts that all image classifiers share: checks of fields and images, and the head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer

from evonorm_jax.errors import UserError

# The authors' ResNets draw the dense layer so.
resnet_head_init = nn.initializers.normal(stddev=0.01)


def check_positive_int(field: str, value: object) -> None:
    """Raises `UserError` unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{field}={value!r}: expected an integer of at least 1.")


def check_num_classes(value: object) -> None:
    """Raises `UserError` unless `value` is an integer of at least 0; 0 leaves out the head."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(
            f"num_classes={value!r}: expected an integer of at least 1, or 0 for a network without "
            "its head, which returns pooled features."
        )


def check_positive(field: str, value: object) -> None:
    """Raises `UserError` unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{field}={value!r}: expected a number above 0.")


def check_survival_probability(value: float) -> None:
    """Raises `UserError` unless `value` is a probability above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise UserError(
            f"survival_probability={value!r}: expected a number in (0, 1]; 1 leaves no branch out."
        )


def check_dropout_rate(value: float) -> None:
    """Raises `UserError` unless `value` is a probability below 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise UserError(f"dropout_rate={value!r}: expected a number in [0, 1); 0 switches it off.")


def check_bool(field: str, value: object) -> None:
    """Raises `UserError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{field}={value!r}: expected True or False.")


def check_images(images: jax.Array, stem_params: Mapping[str, Any] | None = None) -> None:
    """Raises `UserError` unless `images` is a batch that the network can take.

    Args:
      images: Float array `[N, H, W, C]`.
      stem_params: Parameters of the first convolution if the model is initialised already. The C
        of its kernel `[k, k, C, F]` is then the only number of channels accepted.

    Raises:
      UserError: The images have another rank, are empty, have the layout NCHW or integer pixels, or
        have another number of channels than the parameters were initialised with.
    """
    if images.ndim != 4:
        raise UserError(
            f"images have shape {images.shape}: expected [N, H, W, C]; "
            "add a batch axis with images[None] or a channel axis with images[..., None]."
        )
    _, height, width, channels = images.shape
    if any(size < 1 for size in (height, width, channels)):
        raise UserError(f"images have shape {images.shape}: H, W and C must be at least 1.")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images have dtype {images.dtype}: expected floating-point values, normalised; "
            "for example (images / 255 - mean) / std."
        )
    if stem_params is not None and stem_params["kernel"].shape[2] != channels:
        raise UserError(
            f"images have shape {images.shape}, {channels} channels last, but the parameters "
            f"were initialised for {stem_params['kernel'].shape[2]}: "
            "pass [N, H, W, C] images of that kind or initialise the model anew."
        )
    # No picture is 1 or 3 pixels high and has many channels: this is a transposed batch.
    if channels > 4 and height in (1, 3):
        raise UserError(
            f"images have shape {images.shape}, which looks like [N, C, H, W]: "
            "expected [N, H, W, C]; use images.transpose(0, 2, 3, 1)."
        )


def check_divisible(images: jax.Array, level: int) -> None:
    """Raises `UserError` unless height and width are multiples of 2^level pixels."""
    _, height, width, _ = images.shape
    stride = 2**level
    if height % stride or width % stride:
        raise UserError(
            f"images are {height} x {width} pixels: the maps down to level {level} need sides that "
            f"are multiples of {stride}; pad with zeros at the bottom and on the right."
        )


def check_initializer(field: str, value: object) -> None:
    """Raises `UserError` unless the value can be called."""
    if not callable(value):
        raise UserError(f"{field}={value!r}: expected an initializer, a function.")


def check_stage_sizes(stage_sizes: Sequence[int]) -> None:
    """Raises `UserError` unless there is at least one stage and every stage has a block."""
    if not isinstance(stage_sizes, tuple | list):
        raise UserError(
            f"stage_sizes={stage_sizes!r}: expected the number of blocks of each stage, as (1, 2)."
        )
    if not stage_sizes:
        raise UserError("stage_sizes is empty: expected the number of blocks of each stage.")
    for stage_size in stage_sizes:
        check_positive_int("every one of stage_sizes", stage_size)


def classifier_head(
    x: jax.Array,
    *,
    num_classes: int,
    dropout_rate: float,
    train: bool,
    features: bool = False,
    kernel_init: Initializer = resnet_head_init,
) -> jax.Array:
    """Applies global average pooling, dropout and the dense layer `head`, all in float32.

    Call it inside a compact method: `head` becomes a submodule of the calling module.

    Args:
      x: Feature map `[N, H, W, C]` of any float dtype.
      num_classes: Width of the logits; 0 for no dense layer.
      dropout_rate: Share of pooled features that are dropped in training. Above 0, training needs
        the rng "dropout".
      train: Whether dropout acts.
      features: Whether the dense layer is left out, although there is one.
      kernel_init: Initializer of the kernel of the dense layer.

    Returns:
      Logits `[N, num_classes]`, float32; without the dense layer its input, the pooled features
      `[N, C]`, float32.
    """
    # bfloat16 has 8 bits of mantissa: summing the 49 positions of a 7x7 map in it would lose
    # up to 5 of them, and the logits feed a softmax.
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    x = nn.Dropout(dropout_rate, deterministic=not train)(x)
    if features or not num_classes:
        return x
    return nn.Dense(
        num_classes,
        kernel_init=kernel_init,
        dtype=jnp.float32,
        name="head",
    )(x)
