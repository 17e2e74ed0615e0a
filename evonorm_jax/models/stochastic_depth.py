"""Stochastic depth: residual branches that are left out of training steps at random.

Source: Huang et al., arXiv:1603.09382, in the form of the TensorFlow code of EfficientNet ("drop
connect"). Each image draws on its own, and a branch that survives is scaled up so that its mean
stays the same.
"""

from __future__ import annotations

import jax
from flax import linen as nn


def stochastic_depth(branch: jax.Array, survival_probability: float, train: bool) -> jax.Array:
    """Replaces each image of the branch `[N, H, W, C]` by zeros at random, in training.

    The other images become `branch / survival_probability`. Call it inside a compact method. Below
    a probability of 1, training needs the rng "dropout".
    """
    drop = nn.Dropout(1 - survival_probability, broadcast_dims=(1, 2, 3), deterministic=not train)
    return drop(branch)


def linear_survival(survival_probability: float, index: int, num_blocks: int) -> float:
    """Returns the probability that block `index` of `num_blocks` survives.

    It falls linearly from 1 in the first block, and would reach `survival_probability` one block
    after the last, as in the TensorFlow code.

    >>> [linear_survival(0.5, index, 4) for index in range(4)]
    [1.0, 0.875, 0.75, 0.625]
    """
    return 1 - (1 - survival_probability) * index / num_blocks
