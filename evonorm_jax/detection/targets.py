"""What the two stages are trained towards, for one image: `vmap` the functions."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from evonorm_jax.detection import boxes as box_math
from evonorm_jax.detection import matching
from evonorm_jax.detection.boxes import Weights
from evonorm_jax.detection.matching import BACKGROUND, Sample, Truth


class AnchorTargets(NamedTuple):
    """Targets of the region proposal network.

    Attributes:
      sample: the anchors whose score is trained, S of all A.
      matched: `[A]` bool, the anchors whose box is trained: all positive ones, drawn or not.
      deltas: `[A, 4]` float32, what these should answer.
    """

    sample: Sample
    matched: jax.Array
    deltas: jax.Array


class RegionTargets(NamedTuple):
    """Regions that the heads are trained on, R each image, the objects first.

    Attributes:
      boxes: `[R, 4]` float32.
      classes: `[R]` int32, 0 for background.
      drawn: `[R]` bool; False is a repetition that fills a slot and must not count.
      deltas: `[R, 4]` float32, what the box branch should answer where the class is not 0.
      masks: `[Q, S, S]` float32 from 0 to 1 for the first Q regions.
    """

    boxes: jax.Array
    classes: jax.Array
    drawn: jax.Array
    deltas: jax.Array
    masks: jax.Array


def anchor_targets(
    key: jax.Array, anchors: jax.Array, truth: Truth, *, num_samples: int, max_positives: int
) -> AnchorTargets:
    """Matches the anchors `[A, 4]` with the objects of one image and draws some to train on."""
    matches = matching.match_anchors(anchors, truth.boxes, truth.classes)
    return AnchorTargets(
        sample=matching.sample(key, matches, num_samples=num_samples, max_positives=max_positives),
        matched=matches.positive,
        # Without scale factors and by the continuous rule even where the authors decode by the old.
        deltas=box_math.encode(truth.boxes[matches.objects], anchors),
    )


def region_targets(
    key: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    truth: Truth,
    *,
    num_samples: int,
    max_positives: int,
    mask_size: int,
    weights: Weights,
    extent: float,
) -> RegionTargets:
    """Draws regions from the proposals and the objects of one image, with their targets.

    The objects themselves are candidates, too: early proposals miss most of them.

    Args:
      key: of this image alone.
      proposals: `[P, 4]`.
      valid: `[P]` bool, False for padding.
      truth: of the image, M objects.
      num_samples: R.
      max_positives: Q, regions for the mask branch; at most this many stand for objects.
      mask_size: S.
      weights: of the deltas.
      extent: see `evonorm_jax.detection.boxes`.
    """
    candidates = jnp.concatenate([proposals, truth.boxes])
    valid = jnp.concatenate([valid, truth.classes > BACKGROUND])
    matches = matching.match_regions(candidates, valid, truth.boxes, truth.classes)
    drawn = matching.sample(key, matches, num_samples=num_samples, max_positives=max_positives)

    boxes, index = candidates[drawn.candidates], matches.objects[drawn.candidates]
    crop = functools.partial(crop_mask, size=mask_size)
    return RegionTargets(
        boxes=boxes,
        classes=jnp.where(drawn.positive, truth.classes[index], BACKGROUND),
        drawn=drawn.drawn,
        deltas=box_math.encode(truth.boxes[index], boxes, weights, extent),
        masks=jax.vmap(crop)(
            truth.masks[index[:max_positives]],
            truth.boxes[index[:max_positives]],
            boxes[:max_positives],
        ),
    )


def crop_mask(mask: jax.Array, box: jax.Array, region: jax.Array, *, size: int) -> jax.Array:
    """The part of an object's mask that lies in a region: `[P, P]` to `[size, size]` float32.

    Bilinear and not rounded, as in the authors' code: the target of a pixel on the outline lies
    between 0 and 1. Outside of the object's box it is 0.

    Args:
      mask: over the box of the object.
      box: of the object, `[4]`.
      region: `[4]`, in the same pixels.
      size: of the result.
    """
    side = jnp.maximum(box[2:] - box[:2], 1e-3)
    start, end = (region[:2] - box[:2]) / side, (region[2:] - box[:2]) / side  # in boxes
    extent = jnp.maximum(end - start, 1e-3)
    return jax.image.scale_and_translate(
        mask.astype(jnp.float32),
        (size, size),
        spatial_dims=(0, 1),
        scale=size / (extent * mask.shape[-1]),
        translation=-start * size / extent,
        method="linear",
        antialias=False,
    )
