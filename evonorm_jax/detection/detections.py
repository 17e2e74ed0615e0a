"""From the answers of the box head to the detections of an image."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection import boxes as box_math
from evonorm_jax.detection.boxes import Weights
from evonorm_jax.detection.nms import suppress
from evonorm_jax.detection.proposals import best

#: Score of a slot without a detection; all others are probabilities.
NO_SCORE = -1.0


class Detections(NamedTuple):
    """What was found in a batch, D slots each image, the best first.

    Attributes:
      boxes: `[b, D, 4]` float32, `[y1, x1, y2, x2]` in pixels of the image as it was fed.
      scores: `[b, D]` float32; -1 where there is no detection.
      classes: `[b, D]` int32 from 1 on; 0 where there is no detection.
      masks: `[b, D, S, S]` uint8, 255 times the probability that a pixel belongs to the object,
          over the box.
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    masks: jax.Array


def select_detections(
    class_logits: jax.Array,
    deltas: jax.Array,
    regions: jax.Array,
    valid: jax.Array,
    size: jax.Array,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    weights: Weights,
    extent: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Boxes, scores and classes of one image, after non-maximum suppression within each class.

    Args:
      class_logits: `[P, K]`, class 0 being the background.
      deltas: `[P, K, 4]`.
      regions: `[P, 4]`.
      valid: `[P]` bool, False for padding.
      size: `[2]`, height and width that the boxes are clipped to.
      score_threshold: probability that a detection must exceed.
      iou_threshold: of the suppression.
      max_detections: D, over all classes.
      weights: of the deltas.
      extent: see `evonorm_jax.detection.boxes`.

    Returns:
      The first three fields of `Detections`, without the batch axis.
    """
    probabilities = jax.nn.softmax(class_logits, axis=-1)
    boxes = box_math.decode(deltas, regions[:, None], weights, extent)
    boxes = box_math.clip(boxes, size, extent)

    def one_class(operands: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores, boxes = operands
        eligible = valid & (scores > score_threshold) & (box_math.area(boxes) > 0)
        order, eligible = best(scores, eligible, len(scores))
        keep = suppress(boxes[order], eligible, iou_threshold)
        # Of one class no more than of all classes can be among the best of all.
        index, found = best(scores[order], keep, max_detections)
        return order[index], found

    objects = probabilities.T[1:], jnp.moveaxis(boxes, 1, 0)[1:]
    # A class at a time: the overlaps of 1000 regions with each other take 1 MB for each class.
    index, found = lax.map(one_class, objects)  # [K - 1, D]
    classes = jnp.broadcast_to(jnp.arange(1, len(index) + 1)[:, None], index.shape)
    chosen_scores = probabilities[index, classes]

    slot, found = best(chosen_scores.ravel(), found.ravel(), max_detections)
    index, classes = index.ravel()[slot], classes.ravel()[slot]
    return (
        jnp.where(found[:, None], boxes[index, classes], 0),
        jnp.where(found, chosen_scores.ravel()[slot], NO_SCORE),
        jnp.where(found, classes, 0),
    )
