"""The loss, and the sums that metrics are made of.

Metrics are kept as sums and counts until the end, so that batches of different sizes, padding and
several hosts give exactly the mean over the examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each example, in float32.

    Args:
      logits: `[N, K]`.
      targets: `[N, K]` probabilities.

    Returns:
      `[N]`, nats.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def classification_sums(
    logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums over the examples whose mask is 1: loss, top-1 and top-5 hits, and their count.

    Examples whose mask is 0 add exactly nothing, not even when their logits are not finite.

    Args:
      logits: `[N, K]`.
      labels: `[N]` integers.
      mask: `[N]`, 1 for an example that counts, 0 for padding.
    """
    num_classes = logits.shape[-1]
    losses = cross_entropy(logits, jax.nn.one_hot(labels, num_classes))
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # Rank of the true class, ties counted against it: a constant output is no hit.
    others_at_least = jnp.sum(logits >= own, axis=-1) - 1
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    counted = mask > 0

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(counted, values, 0).astype(jnp.float32))

    sums = {
        "loss": total(losses),
        "top1": total((others_at_least < 1) & finite),
        "count": total(mask),
    }
    if num_classes > 5:
        sums["top5"] = total((others_at_least < 5) & finite)
    return sums


def mean_metrics(sums: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    """Adds up what `classification_sums` gave for many batches and divides by the count.

    >>> mean_metrics([{"loss": 6.0, "count": 3.0}, {"loss": 2.0, "count": 1.0}], "eval")
    {'eval/loss': 2.0, 'eval/examples': 4}
    """
    totals: dict[str, float] = {}
    for batch in jax.device_get(list(sums)):
        for name, value in batch.items():
            totals[name] = totals.get(name, 0.0) + float(np.float64(value))
    count = totals.pop("count")
    means = {f"{prefix}/{name}": value / count for name, value in totals.items()}
    return {**means, f"{prefix}/examples": round(count)}
