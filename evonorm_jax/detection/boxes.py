"""Boxes, `[..., 4]` float32 as `[y1, x1, y2, x2]`: the one place for the coordinate rule.

Coordinates are continuous: pixel i covers the interval from i to i + 1, its centre is i + 0.5, the
whole image is `[0, 0, H, W]`, and a width is x2 - x1. `extent=1` selects the old rule of Detectron
and of the authors' TensorFlow code (tensorflow/tpu, models/official/detection), where a coordinate
names a pixel and a width is x2 - x1 + 1. Only weights that were trained with the old rule need it.

Padding is the box `[0, 0, 0, 0]`. Its area is 0, its IoU with any box is 0, and all values and
gradients computed from it are finite.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Larger deltas are cut off before exp: a side grows by this factor at most (Girshick et al.,
# Detectron).
_MAX_LOG_SCALE = math.log(1000 / 16)

# Pixels. Keeps quotients and logarithms of empty boxes finite; no object is as small.
_MIN_SIDE = 1e-3

Weights = tuple[float, float, float, float]
UNIT_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)


def sizes(boxes: jax.Array, extent: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Returns the heights and the widths of boxes `[..., 4]` in pixels, `[...]` each."""
    y1, x1, y2, x2 = jnp.moveaxis(boxes, -1, 0)
    return y2 - y1 + extent, x2 - x1 + extent


def area(boxes: jax.Array) -> jax.Array:
    """Returns the areas of boxes `[..., 4]` in square pixels, `[...]`.

    The area is 0 for a box that is empty or inside out.

    >>> area(jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 4.0, 9.0]])).tolist()
    [6.0, 0.0]
    """
    height, width = sizes(boxes)
    return jnp.maximum(height, 0) * jnp.maximum(width, 0)


def iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Computes the intersection over union (IoU) of every pair of boxes.

    Boxes `[N, 4]` and `[M, 4]` give `[N, M]`, which is 0 where the union is empty.

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 1.0, 2.0, 3.0]])).round(4).tolist()
    [[0.33329999446868896]]
    """
    boxes, others = boxes[:, None], others[None]
    corner = jnp.maximum(boxes[..., :2], others[..., :2])
    far_corner = jnp.minimum(boxes[..., 2:], others[..., 2:])
    overlap = jnp.prod(jnp.maximum(far_corner - corner, 0), axis=-1)
    union = area(boxes) + area(others) - overlap
    return jnp.where(union > 0, overlap / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: jax.Array, anchors: jax.Array, weights: Weights = UNIT_WEIGHTS, extent: float = 0.0
) -> jax.Array:
    """Encodes boxes relative to anchors: `weights * [dy, dx, log dh, log dw]`, `[..., 4]` float32.

    Source: Girshick et al., "Rich feature hierarchies" (arXiv:1311.2524), appendix C.
    """
    height, width = (jnp.maximum(side, _MIN_SIDE) for side in sizes(boxes, extent))
    anchor_height, anchor_width = (jnp.maximum(side, _MIN_SIDE) for side in sizes(anchors, extent))
    dy = (boxes[..., 0] + height / 2 - anchors[..., 0] - anchor_height / 2) / anchor_height
    dx = (boxes[..., 1] + width / 2 - anchors[..., 1] - anchor_width / 2) / anchor_width
    dh, dw = jnp.log(height / anchor_height), jnp.log(width / anchor_width)
    return jnp.stack([dy, dx, dh, dw], axis=-1) * jnp.asarray(weights)


def decode(
    deltas: jax.Array, anchors: jax.Array, weights: Weights = UNIT_WEIGHTS, extent: float = 0.0
) -> jax.Array:
    """Decodes deltas to boxes `[..., 4]` float32, the inverse of `encode`.

    A side of a box is at most 62.5 times that of its anchor.
    """
    dy, dx, dh, dw = jnp.moveaxis(deltas.astype(jnp.float32) / jnp.asarray(weights), -1, 0)
    anchor_height, anchor_width = sizes(anchors, extent)
    height = anchor_height * jnp.exp(jnp.minimum(dh, _MAX_LOG_SCALE))
    width = anchor_width * jnp.exp(jnp.minimum(dw, _MAX_LOG_SCALE))
    y1 = anchors[..., 0] + anchor_height / 2 + dy * anchor_height - height / 2
    x1 = anchors[..., 1] + anchor_width / 2 + dx * anchor_width - width / 2
    return jnp.stack([y1, x1, y1 + height - extent, x1 + width - extent], axis=-1)


def clip(boxes: jax.Array, size: jax.Array, extent: float = 0.0) -> jax.Array:
    """Clips each box to an image of `size` = `[height, width]` pixels."""
    limits = jnp.concatenate([size, size]).astype(jnp.float32) - extent
    return jnp.clip(boxes, 0, limits)
