"""AutoAugment (Cubuk et al., 2019) in TensorFlow: the policy that was found for ImageNet.

One of 25 pairs of operations is drawn for each image, and each of the two is applied with its own
probability and strength. The policy is "v0" of the authors' ImageNet code, which trained
EfficientNet-B0; the operations, and what a strength of 0 to 10 means, are those of
`randaugment.py`. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from evonorm_jax.data.randaugment import OPERATIONS


class Step(NamedTuple):
    """An operation of a pair."""

    operation: str
    probability: float
    magnitude: float


#: A strength of 10 translates by 250 pixels of 224 here, by 100 in RandAugment: 9 becomes 22.5.
POLICY: tuple[tuple[Step, Step], ...] = (
    (Step("equalize", 0.8, 1), Step("shear_y", 0.8, 4)),
    (Step("color", 0.4, 9), Step("equalize", 0.6, 3)),
    (Step("color", 0.4, 1), Step("rotate", 0.6, 8)),
    (Step("solarize", 0.8, 3), Step("equalize", 0.4, 7)),
    (Step("solarize", 0.4, 2), Step("solarize", 0.6, 2)),
    (Step("color", 0.2, 0), Step("equalize", 0.8, 8)),
    (Step("equalize", 0.4, 8), Step("solarize_add", 0.8, 3)),
    (Step("shear_x", 0.2, 9), Step("rotate", 0.6, 8)),
    (Step("color", 0.6, 1), Step("equalize", 1.0, 2)),
    (Step("invert", 0.4, 9), Step("rotate", 0.6, 0)),
    (Step("equalize", 1.0, 9), Step("shear_y", 0.6, 3)),
    (Step("color", 0.4, 7), Step("equalize", 0.6, 0)),
    (Step("posterize", 0.4, 6), Step("autocontrast", 0.4, 7)),
    (Step("solarize", 0.6, 8), Step("color", 0.6, 9)),
    (Step("solarize", 0.2, 4), Step("rotate", 0.8, 9)),
    (Step("rotate", 1.0, 7), Step("translate_y", 0.8, 22.5)),
    (Step("shear_x", 0.0, 0), Step("solarize", 0.8, 4)),
    (Step("shear_y", 0.8, 0), Step("color", 0.6, 4)),
    (Step("color", 1.0, 0), Step("rotate", 0.6, 2)),
    (Step("equalize", 0.8, 4), Step("equalize", 0.0, 8)),
    (Step("equalize", 1.0, 4), Step("autocontrast", 0.6, 2)),
    (Step("shear_y", 0.4, 7), Step("solarize_add", 0.6, 7)),
    (Step("posterize", 0.8, 2), Step("solarize", 0.6, 10)),
    (Step("solarize", 0.6, 8), Step("equalize", 0.6, 1)),
    (Step("color", 0.8, 6), Step("rotate", 0.4, 5)),
)


def auto_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies a pair of `POLICY`, each with equal probability.

    Args:
      image: `[H, W, 3]` of static shape, uint8.
      seed: `[2]`, int64.

    Returns:
      uint8, same shape.
    """
    choice_seed, pair_seed = tf.unstack(tf.random.split(seed, num=2))
    choice = tf.random.stateless_uniform([], choice_seed, 0, len(POLICY), tf.int32)
    branches: list[Callable[[], tf.Tensor]] = [
        functools.partial(apply_pair, pair, image, pair_seed) for pair in POLICY
    ]
    return tf.ensure_shape(tf.switch_case(choice, branches), image.shape)


def apply_pair(pair: tuple[Step, Step], image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies each operation of the pair in turn, with its probability."""
    for step, step_seed in zip(pair, tf.unstack(tf.random.split(seed, num=2)), strict=True):
        draw_seed, op_seed = tf.unstack(tf.random.split(step_seed, num=2))
        image = tf.cond(
            tf.random.stateless_uniform([], draw_seed) < step.probability,
            functools.partial(OPERATIONS[step.operation], image, step.magnitude, op_seed),
            functools.partial(tf.identity, image),
        )
    return image
