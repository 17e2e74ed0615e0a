"""The five losses of Mask R-CNN, in the form of the authors' TensorFlow code.

    rpn_score   sigmoid cross-entropy of the anchors drawn, over images times anchors an image
    rpn_box     Huber (delta 1/9), mean over the non-zero components of all matched anchors' targets
    class       softmax cross-entropy of the regions drawn, over images times regions an image
    box         Huber (delta 1), mean over the 4 components of all regions that stand for objects
    mask        sigmoid cross-entropy, mean over the pixels of those regions

Source: tensorflow/tpu, models/official/detection, modeling/losses.py. Detectron divides the two box
losses by the number of samples instead: its weights do not carry over.

Difference: three of the means have a number of terms that depends on the images. The authors take
it from one core; here it is averaged over the devices, `axis_name`, so that the mean loss of the
devices is the loss of the whole batch however it is laid out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection.matching import BACKGROUND
from evonorm_jax.detection.targets import AnchorTargets, RegionTargets


class TrainingOutputs(NamedTuple):
    """What the network answers in training, and what it should, all float32.

    Attributes:
      rpn_scores: `[b, A]` logits, one an anchor.
      rpn_deltas: `[b, A, 4]`.
      anchor_targets: of every image.
      class_logits: `[b, R, K]`.
      box_deltas: `[b, R, K, 4]`.
      mask_logits: `[b, Q, S, S]`, those of the class of each region.
      region_targets: of every image.
    """

    rpn_scores: jax.Array
    rpn_deltas: jax.Array
    anchor_targets: AnchorTargets
    class_logits: jax.Array
    box_deltas: jax.Array
    mask_logits: jax.Array
    region_targets: RegionTargets


def detection_losses(
    outputs: TrainingOutputs, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """The losses by name, scalars; their sum is what training minimises.

    Args:
      outputs: of the images of this device.
      axis_name: of the `pmap` or `shard_map` axis whose devices hold the batch together.
    """
    return rpn_losses(outputs, axis_name) | head_losses(outputs, axis_name)


def rpn_losses(outputs: TrainingOutputs, axis_name: str | None = None) -> dict[str, jax.Array]:
    """`rpn_score` and `rpn_box`."""
    targets = outputs.anchor_targets
    sample = targets.sample
    scores = jnp.take_along_axis(outputs.rpn_scores, sample.candidates, axis=1)
    score_loss = jnp.where(sample.drawn, sigmoid_cross_entropy(scores, sample.positive), 0)

    trained = targets.matched[..., None] & (targets.deltas != 0)
    box_loss = huber(outputs.rpn_deltas - targets.deltas, delta=1 / 9)
    return {
        "rpn_score": jnp.mean(score_loss),
        "rpn_box": _mean(box_loss, trained, axis_name),
    }


def head_losses(outputs: TrainingOutputs, axis_name: str | None = None) -> dict[str, jax.Array]:
    """`class`, `box` and `mask`."""
    targets = outputs.region_targets
    log_probabilities = jax.nn.log_softmax(outputs.class_logits, axis=-1)
    class_loss = -_of_class(log_probabilities, targets.classes)

    positive = targets.classes > BACKGROUND
    box_loss = huber(_of_class(outputs.box_deltas, targets.classes) - targets.deltas, delta=1.0)
    mask_loss = sigmoid_cross_entropy(outputs.mask_logits, targets.masks)
    has_mask = positive[:, : mask_loss.shape[1]]
    return {
        "class": jnp.mean(jnp.where(targets.drawn, class_loss, 0)),
        "box": _mean(box_loss, positive[..., None], axis_name),
        "mask": _mean(mask_loss, has_mask[..., None, None], axis_name),
    }


def huber(error: jax.Array, delta: float) -> jax.Array:
    """Half the square of the error below `delta`, linear beyond.

    >>> huber(jnp.array([-0.5, 3.0]), delta=1.0).tolist()
    [0.125, 2.5]
    """
    size = jnp.abs(error)
    bounded = jnp.minimum(size, delta)
    return bounded * (size - bounded / 2)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Of probabilities from 0 to 1, elementwise.

    >>> sigmoid_cross_entropy(jnp.array([0.0, 200.0]), jnp.array([0.5, 1.0])).round(4).tolist()
    [0.6930999755859375, 0.0]
    """
    return jax.nn.softplus(logits) - logits * targets


def _of_class(values: jax.Array, classes: jax.Array) -> jax.Array:
    """`[b, R, K, ...]` to `[b, R, ...]`, the values of each region's class."""
    index = classes.reshape(*classes.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=2).squeeze(axis=2)


def _mean(values: jax.Array, counted: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the entries that are counted; 0, with gradient 0, where none is."""
    counted = jnp.broadcast_to(counted, values.shape)
    count = jnp.sum(counted, dtype=jnp.float32)
    if axis_name is not None:
        count = lax.pmean(count, axis_name)
    # Not max(count, 1): averaged over devices, a count may well lie between 0 and 1.
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.where(count > 0, count, 1)
