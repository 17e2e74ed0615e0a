"""Non-maximum suppression, exact and of fixed shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.detection import boxes as box_math


def suppress(boxes: jax.Array, valid: jax.Array, threshold: float) -> jax.Array:
    """Finds the boxes that greedy non-maximum suppression keeps.

    The greedy loop takes the boxes by descending score. It keeps a box unless a box kept before
    overlaps it by more than `threshold`. Here each round decides all boxes at once by that rule,
    from the decisions of the round before, until nothing changes. The rule has one solution,
    because the score orders the boxes: after k rounds every box is settled that hangs on a chain of
    fewer than k others. So the result is that of the loop. It takes as many rounds as the longest
    chain, rarely over ten.

    Args:
      boxes: Boxes `[N, 4]` by descending score.
      valid: Validity of the boxes, `[N]` bool; an invalid box is not kept and suppresses none.
      threshold: Intersection over union that is still tolerated.

    Returns:
      Whether each box is kept, `[N]` bool.

    >>> boxes = jnp.array([[0.0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]])
    >>> suppress(boxes, jnp.ones(3, bool), threshold=0.3).tolist()
    [True, False, True]
    """
    earlier = jnp.triu(jnp.ones((len(boxes), len(boxes)), bool), k=1)
    suppresses = (box_math.iou(boxes, boxes) > threshold) & earlier

    def decide(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        decided = valid & ~jnp.any(suppresses & keep[:, None], axis=0)
        return decided, jnp.any(decided != keep)

    keep, _ = lax.while_loop(lambda state: state[1], decide, (valid, jnp.any(valid)))
    return keep
