"""The training targets of both stages. Functions take one image; `vmap` them for a batch."""

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
      sample: S of all A anchors, whose scores are trained.
      matched: Whether the box of each anchor is trained, `[A]` bool: True for all positive anchors,
        drawn or not.
      deltas: Deltas that the anchors with a trained box should answer, `[A, 4]` float32.
    """

    sample: Sample
    matched: jax.Array
    deltas: jax.Array


class RegionTargets(NamedTuple):
    """R regions of an image that the heads are trained on, with their targets.

    Those that stand for objects come first.

    Attributes:
      boxes: Boxes of the regions, `[R, 4]` float32 in pixels.
      classes: Classes of the regions, `[R]` int32; 0 for background.
      drawn: Whether each region was drawn, `[R]` bool; False marks a repetition that fills a slot
        and must not count.
      deltas: Deltas that the box branch should answer where the class is not 0, `[R, 4]` float32.
      masks: Masks of the first Q regions, `[Q, S, S]` float32 from 0 to 1.
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

    The objects themselves are candidates, too, because early proposals miss most of them.

    Args:
      key: PRNG key of this image alone.
      proposals: Boxes `[P, 4]` of the proposals, in pixels.
      valid: Validity of the proposals, `[P]` bool; False marks padding.
      truth: The M objects of the image, without the batch axis.
      num_samples: Number R of regions drawn.
      max_positives: Number Q of regions for the mask branch, and the most that may stand for
        objects.
      mask_size: Side S of the masks.
      weights: Factors of the deltas, see `evonorm_jax.detection.boxes.encode`.
      extent: Rule of the coordinates, see `evonorm_jax.detection.boxes`.
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
    """Crops the mask of an object to a region: `[P, P]` to `[size, size]` float32.

    The interpolation is bilinear and not rounded, as in the authors' code, so that the target of a
    pixel on the outline lies between 0 and 1. Outside of the object's box the result is 0.

    Args:
      mask: Mask of the object over its box, `[P, P]`.
      box: Box of the object, `[4]` in pixels.
      region: Box of the region, `[4]` in the same pixels.
      size: Side of the result.
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
