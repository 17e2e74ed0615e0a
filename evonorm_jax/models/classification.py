"""Scores of a classifier's logits: the loss, and the rule for what is a hit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes the softmax cross-entropy of each example, in float32.

    Args:
      logits: Logits `[N, K]` of any floating dtype.
      targets: Probabilities `[N, K]` of the classes.

    Returns:
      The losses `[N]` in nats, float32.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def in_top(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """Tells for each example whether its class is among the `k` with the largest logits.

    Ties count against the class, so a constant output is no hit. Logits are no hit either if one of
    them is not finite.

    >>> in_top(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.array([1, 0])).tolist()
    [True, False]

    Args:
      logits: Logits `[N, K]`.
      labels: Classes `[N]`, integers.
      k: Number of largest logits that count.

    Returns:
      Booleans `[N]`, True for a hit.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    others_at_least = jnp.sum(logits >= own, axis=-1) - 1
    return (others_at_least < k) & jnp.all(jnp.isfinite(logits), axis=-1)


def predicted_classes(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Names for each example the class that it was taken for, by the rule of `in_top`.

    That is the class of the largest logit. Where it is a tie with the true class, or a logit is not
    finite, it is another class than the true one, so that predictions are right exactly where
    `in_top` finds a hit.

    >>> predicted_classes(jnp.array([[0.0, 2.0], [1.0, 1.0]]), jnp.array([1, 0])).tolist()
    [1, 1]

    Args:
      logits: Logits `[N, K]`.
      labels: Classes `[N]`, integers.

    Returns:
      Classes `[N]`, int32.
    """
    is_own = jnp.arange(logits.shape[-1]) == labels[:, None]
    lowest = jnp.finfo(logits.dtype).min  # still above the place of the true class
    finite = jnp.nan_to_num(logits, nan=lowest, neginf=lowest)
    other = jnp.argmax(jnp.where(is_own, -jnp.inf, finite), axis=-1)
    return jnp.where(in_top(logits, labels), labels, other).astype(jnp.int32)
