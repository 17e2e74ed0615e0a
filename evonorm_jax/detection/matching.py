"""The choice of objects that anchors and regions stand for, and of those to train on.

All functions take one image and have fixed shapes; `vmap` them for a batch. The objects of an image
are padded to a fixed number with class 0, and padding matches nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection import boxes as box_math

#: Classes from 1 on are those of objects.
BACKGROUND = 0


class Truth(NamedTuple):
    """The objects of a batch of images, padded to M for each image.

    Attributes:
      boxes: Boxes `[b, M, 4]` float32, `[y1, x1, y2, x2]` in pixels of the network's input.
      classes: Classes `[b, M]` int32 from 1 on; 0 is padding.
      masks: Masks `[b, M, P, P]` uint8 with values 0 and 1. Each is the part of the mask inside
        the box, resized to P x P.
    """

    boxes: jax.Array
    classes: jax.Array
    masks: jax.Array


class Matches(NamedTuple):
    """The objects that N candidates stand for. A candidate may be neither positive nor negative.

    Attributes:
      objects: Index of the object that each candidate overlaps most, `[N]` int32; arbitrary where
        it overlaps none.
      positive: Whether each candidate stands for that object, `[N]` bool.
      negative: Whether each candidate is background, `[N]` bool.
    """

    objects: jax.Array
    positive: jax.Array
    negative: jax.Array


class Sample(NamedTuple):
    """S candidates drawn for training, the positive ones first.

    Attributes:
      candidates: Indices of the candidates, `[S]` int32.
      positive: Whether each stands for an object, `[S]` bool.
      drawn: Whether each was drawn, `[S]` bool; False marks a repetition that fills a slot and must
        not count.
    """

    candidates: jax.Array
    positive: jax.Array
    drawn: jax.Array


def match_anchors(
    anchors: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    *,
    positive_iou: float = 0.7,
    negative_iou: float = 0.3,
) -> Matches:
    """Matches anchors with objects.

    Besides the rule of the two thresholds, every object has the anchor that overlaps it most,
    however little that is, and the first of them where several overlap it equally. Source: Ren et
    al., "Faster R-CNN" (arXiv:1506.01497), section 3.1.2.

    Args:
      anchors: Boxes `[N, 4]` of the anchors.
      boxes: Boxes `[M, 4]` of the objects.
      classes: Classes `[M]` of the objects; 0 is padding.
      positive_iou: Intersection over union from which on an anchor is positive.
      negative_iou: Intersection over union below which an anchor is negative.
    """
    overlaps = _overlaps(anchors, boxes, classes)
    best = jnp.max(overlaps, axis=1)
    index = jnp.argmax(overlaps, axis=1)

    favourite = jnp.argmax(overlaps, axis=0)
    # Padding, and an object beside all anchors, claim a row that does not exist.
    claims = jnp.where(jnp.max(overlaps, axis=0) > 0, favourite, len(anchors))
    # The first object wins where two want one anchor.
    nobody = jnp.full(len(anchors), len(boxes), index.dtype)
    forced_index = nobody.at[claims].min(jnp.arange(len(boxes)), mode="drop")
    forced = forced_index < nobody

    return Matches(
        objects=jnp.where(forced, forced_index, index).astype(jnp.int32),
        positive=forced | (best >= positive_iou),
        negative=~forced & (best < negative_iou),
    )


def match_regions(
    regions: jax.Array,
    valid: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    *,
    positive_iou: float = 0.5,
) -> Matches:
    """Matches proposed regions with objects.

    Args:
      regions: Boxes `[N, 4]` of the regions.
      valid: Validity of the regions, `[N]` bool; False marks padding, which is neither positive nor
        negative.
      boxes: Boxes `[M, 4]` of the objects.
      classes: Classes `[M]` of the objects; 0 is padding.
      positive_iou: Intersection over union above which a region is positive, and below which it is
        negative.
    """
    overlaps = _overlaps(regions, boxes, classes)
    best = jnp.max(overlaps, axis=1)
    return Matches(
        objects=jnp.argmax(overlaps, axis=1).astype(jnp.int32),
        positive=valid & (best > positive_iou),
        negative=valid & (best < positive_iou),
    )


def sample(key: jax.Array, matches: Matches, *, num_samples: int, max_positives: int) -> Sample:
    """Draws `num_samples` candidates: up to `max_positives` positive ones, the rest negative.

    All candidates of a kind are equally likely. Where both kinds together are too few, those drawn
    are repeated in turn. So every slot holds a real candidate, and batch statistics over the slots
    are statistics of regions of the image.

    Args:
      key: PRNG key of this image alone, so that the sample does not depend on the rest of the
        batch.
      matches: Matches of the N candidates.
      num_samples: Number S of slots.
      max_positives: Largest number of positive candidates, at most S.
    """
    priority = jax.random.uniform(key, matches.positive.shape)

    def draw(eligible: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
        """Returns indices by descending priority, the eligible first, and how many are eligible."""
        score, index = lax.top_k(jnp.where(eligible, priority, -1), min(most, len(eligible)))
        return index, jnp.sum(score >= 0)

    positives, num_positives = draw(matches.positive, max_positives)
    negatives, num_negatives = draw(matches.negative, num_samples)
    num_drawn = jnp.minimum(num_positives + num_negatives, num_samples)

    slot = jnp.arange(num_samples)
    source = slot % jnp.maximum(num_drawn, 1)
    candidates = jnp.where(
        source < num_positives,
        positives[jnp.minimum(source, len(positives) - 1)],
        negatives[jnp.clip(source - num_positives, 0, len(negatives) - 1)],
    )
    return Sample(candidates, positive=slot < num_positives, drawn=slot < num_drawn)


def _overlaps(candidates: jax.Array, boxes: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the intersection over union `[N, M]`, which is 0 with padding."""
    return jnp.where(classes > BACKGROUND, box_math.iou(candidates, boxes), 0)
