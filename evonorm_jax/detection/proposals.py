"""Proposals: the regions for the heads, selected from the answers of the proposal network."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection import boxes as box_math
from evonorm_jax.detection.nms import suppress


def propose(
    scores: Mapping[int, jax.Array],
    deltas: Mapping[int, jax.Array],
    anchors: Mapping[int, jax.Array],
    size: jax.Array,
    *,
    num_candidates: int,
    num_proposals: int,
    iou_threshold: float,
    extent: float,
) -> tuple[jax.Array, jax.Array]:
    """Selects the best regions of one image after non-maximum suppression within each level.

    Args:
      scores: Logits of the anchors by level, `[N]` each.
      deltas: Deltas of the anchors by level, `[N, 4]` each.
      anchors: Boxes of the anchors by level, `[N, 4]` each, in pixels.
      size: Height and width in pixels that the regions are clipped to, `[2]`.
      num_candidates: Number of anchors of each level, those of the highest scores, that enter the
        suppression.
      num_proposals: Number P of regions returned; also the most that one level may give.
      iou_threshold: Overlap that the suppression tolerates, as intersection over union.
      extent: Rule of the coordinates, see `evonorm_jax.detection.boxes`.

    Returns:
      Boxes `[P, 4]` float32 by descending score, and their validity `[P]` bool. Where there are
      fewer than P regions, the other boxes are 0 and not valid. No gradient passes through them.
    """
    # All levels to one length, so that they go through one suppression side by side.
    length = min(num_candidates, max(len(values) for values in scores.values()))
    candidates = []
    for level in scores:
        top, index = lax.top_k(
            lax.stop_gradient(scores[level]), min(num_candidates, len(scores[level]))
        )
        boxes = box_math.decode(
            lax.stop_gradient(deltas[level])[index], anchors[level][index], extent=extent
        )
        boxes = box_math.clip(boxes, size, extent)
        missing = length - len(top)
        candidates.append(
            (
                jnp.pad(top, (0, missing), constant_values=-jnp.inf),
                jnp.pad(boxes, ((0, missing), (0, 0))),
            )
        )
    top, boxes = (jnp.stack(parts) for parts in zip(*candidates, strict=True))  # [levels, length]

    keep = jax.vmap(functools.partial(suppress, threshold=iou_threshold))(
        boxes, jnp.isfinite(top) & (box_math.area(boxes) > 0)
    )
    keep &= jnp.cumsum(keep, axis=1) <= num_proposals
    index, valid = best(top.ravel(), keep.ravel(), num_proposals)
    return jnp.where(valid[:, None], boxes.reshape(-1, 4)[index], 0), valid


def best(scores: jax.Array, keep: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """Finds the `number` highest scores among those kept.

    It returns their indices, and whether each slot holds one: False where too few are kept.

    >>> best(jnp.array([0.1, 0.9, 0.5]), jnp.array([True, False, True]), 4)[1].tolist()
    [True, True, False, False]
    """
    top, index = lax.top_k(jnp.where(keep, scores, -jnp.inf), min(number, len(scores)))
    missing = number - len(top)
    return jnp.pad(index, (0, missing)), jnp.pad(jnp.isfinite(top), (0, missing))
