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
    """The detections of a batch of images: D slots for each image, the highest scores first.

    Attributes:
      boxes: Boxes `[b, D, 4]` float32, `[y1, x1, y2, x2]` in pixels of the network's input.
      scores: Probabilities `[b, D]` float32; -1 where there is no detection.
      classes: Classes `[b, D]` int32 from 1 on; 0 where there is no detection.
      masks: Masks `[b, D, S, S]` uint8 that cover the boxes. A value is 255 times the probability
        that the place belongs to the object.
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
    """Selects the detections of one image by non-maximum suppression within each class.

    Args:
      class_logits: Logits `[P, K]` of the regions; class 0 is the background.
      deltas: Deltas `[P, K, 4]` of the boxes relative to the regions, for each class.
      regions: Boxes `[P, 4]` of the regions, in pixels.
      valid: Validity of the regions, `[P]` bool; False marks padding.
      size: Height and width in pixels that the boxes are clipped to, `[2]`.
      score_threshold: Probability that a detection must exceed.
      iou_threshold: Overlap that the suppression tolerates, as intersection over union.
      max_detections: Number D of detections over all classes.
      weights: Factors of the deltas, see `evonorm_jax.detection.boxes.encode`.
      extent: Rule of the coordinates, see `evonorm_jax.detection.boxes`.

    Returns:
      The boxes, scores and classes of `Detections`, without the batch axis.
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
