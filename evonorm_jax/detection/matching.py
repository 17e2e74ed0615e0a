"""Which anchors and regions stand for which objects, and which of them are trained on.

All functions are of one image and of fixed shape: `vmap` them. The objects of an image are padded
to a fixed number with class 0, and padding matches nothing.
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
    """The objects of a batch, padded to M each image.

    Attributes:
      boxes: `[b, M, 4]` float32, `[y1, x1, y2, x2]` in pixels of the image as it is fed.
      classes: `[b, M]` int32 from 1 on; 0 is padding.
      masks: `[b, M, P, P]` uint8, 0 or 1, each the mask inside the box, resized to P x P.
    """

    boxes: jax.Array
    classes: jax.Array
    masks: jax.Array


class Matches(NamedTuple):
    """What N candidates stand for.

    Attributes:
      objects: `[N]` int32, the index of the object that overlaps most; any where there is none.
      positive: `[N]` bool, whether the candidate stands for that object.
      negative: `[N]` bool, whether it is background. A candidate may be neither.
    """

    objects: jax.Array
    positive: jax.Array
    negative: jax.Array


class Sample(NamedTuple):
    """S candidates drawn for training, the positive ones first.

    Attributes:
      candidates: `[S]` int32, their indices.
      positive: `[S]` bool.
      drawn: `[S]` bool; False is a repetition that fills a slot and must not count.
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
    """Anchors against objects (Ren et al., "Faster R-CNN", arXiv:1506.01497, section 3.1.2).

    Positive from `positive_iou` on, negative below `negative_iou`; besides, every object has the
    anchor that overlaps it most, the first where several do, however little that is.

    Args:
      anchors: `[N, 4]`.
      boxes: `[M, 4]`.
      classes: `[M]`.
      positive_iou: see above.
      negative_iou: see above.
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
    """Proposed regions against objects: positive above `positive_iou`, negative below.

    Args:
      regions: `[N, 4]`.
      valid: `[N]` bool; False is padding, neither positive nor negative.
      boxes: `[M, 4]`.
      classes: `[M]`.
      positive_iou: see above.
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
    are repeated in turn: a slot always holds a real candidate, so that batch statistics over the
    slots are statistics of regions of the image.

    Args:
      key: of this image alone, so that the sample does not depend on the batch around it.
      matches: of N candidates.
      num_samples: S.
      max_positives: at most S.
    """
    priority = jax.random.uniform(key, matches.positive.shape)

    def draw(eligible: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
        """Indices by descending priority, the eligible first; how many of them are."""
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
    """IoU `[N, M]`, 0 with padding."""
    return jnp.where(classes > BACKGROUND, box_math.iou(candidates, boxes), 0)
