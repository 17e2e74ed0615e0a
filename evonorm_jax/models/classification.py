"""Scores of a classifier's logits: the one loss and the one rule of what is a hit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the softmax cross-entropy of each example, in float32.

    Args:
      logits: `[N, K]`.
      targets: `[N, K]` probabilities.

    Returns:
      `[N]` in nats.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def in_top(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """Tells for each example whether its class is among the `k` with the largest logits.

    Ties count against the class, so a constant output is no hit, and neither are logits of which
    one is not finite.

    >>> in_top(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.array([1, 0])).tolist()
    [True, False]

    Args:
      logits: `[N, K]`.
      labels: `[N]` integers.
      k: How many classes count.

    Returns:
      `[N]` booleans.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    others_at_least = jnp.sum(logits >= own, axis=-1) - 1
    return (others_at_least < k) & jnp.all(jnp.isfinite(logits), axis=-1)
