"""The five losses of Mask R-CNN, in the form of the authors' TensorFlow code.

    rpn_score   sigmoid cross-entropy of objectness: the sum over the anchors drawn, divided by the
                number of slots, `rpn_samples` for each image, whether they could be filled or not
    rpn_box     Huber loss (delta 1/9): the mean over the non-zero components of the targets of all
                matched anchors, drawn or not
    class       softmax cross-entropy: the sum over the regions drawn, divided by the number of
                slots, `box_samples` for each image
    box         Huber loss (delta 1): the mean over the 4 components of all regions that stand for
                objects
    mask        sigmoid cross-entropy: the mean over the pixels of those regions that have a mask

Source: tensorflow/tpu, models/official/detection, modeling/losses.py. Detectron divides the two box
losses by the number of samples instead: its weights do not carry over.

Difference: three of the means have a number of terms that depends on the images. The authors take
the number of one core. Here it is averaged over the devices of `axis_name`, so that the mean loss
of the devices is the loss of the whole batch, however many devices hold it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection.matching import BACKGROUND
from evonorm_jax.detection.targets import AnchorTargets, RegionTargets


class TrainingOutputs(NamedTuple):
    """The answers of the network in training, all float32, and their targets.

    Attributes:
      rpn_scores: Objectness logits of the anchors, `[b, A]`.
      rpn_deltas: Deltas of the anchors, `[b, A, 4]`.
      anchor_targets: Targets of the anchors, with a leading axis for the b images.
      class_logits: Logits of the classes of R regions, `[b, R, K]`.
      box_deltas: Deltas of the regions for every class, `[b, R, K, 4]`.
      mask_logits: Logits of the masks of the first Q regions, `[b, Q, S, S]`, each for the class of
        the region.
      region_targets: Targets of the regions, with a leading axis for the b images.
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
    """Computes the five losses; training minimises their sum.

    Args:
      outputs: Answers and targets for the images of this device.
      axis_name: Name of the `pmap` or `shard_map` axis over which the batch is split; None where
        one device holds it all.

    Returns:
      Scalars, float32, by the names of the losses.
    """
    return rpn_losses(outputs, axis_name) | head_losses(outputs, axis_name)


def rpn_losses(outputs: TrainingOutputs, axis_name: str | None = None) -> dict[str, jax.Array]:
    """Computes `rpn_score` and `rpn_box`; the arguments are those of `detection_losses`."""
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
    """Computes `class`, `box` and `mask`; the arguments are those of `detection_losses`."""
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
    """Computes the Huber loss elementwise: half the square of the error up to `delta`, then linear.

    >>> huber(jnp.array([-0.5, 3.0]), delta=1.0).tolist()
    [0.125, 2.5]
    """
    size = jnp.abs(error)
    bounded = jnp.minimum(size, delta)
    return bounded * (size - bounded / 2)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the cross-entropy of logits with target probabilities from 0 to 1, elementwise.

    >>> sigmoid_cross_entropy(jnp.array([0.0, 200.0]), jnp.array([0.5, 1.0])).round(4).tolist()
    [0.6930999755859375, 0.0]
    """
    return jax.nn.softplus(logits) - logits * targets


def _of_class(values: jax.Array, classes: jax.Array) -> jax.Array:
    """Takes the values of each region's class: `[b, R, K, ...]` to `[b, R, ...]`."""
    index = classes.reshape(*classes.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=2).squeeze(axis=2)


def _mean(values: jax.Array, counted: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the mean over the counted entries; 0, with gradient 0, where none is counted."""
    counted = jnp.broadcast_to(counted, values.shape)
    count = jnp.sum(counted, dtype=jnp.float32)
    if axis_name is not None:
        count = lax.pmean(count, axis_name)
    # Not max(count, 1): averaged over devices, a count may well lie between 0 and 1.
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.where(count > 0, count, 1)
