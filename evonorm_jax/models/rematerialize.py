"""Blocks that keep only their input for the gradient, and compute their inside again.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). For up to a
third more arithmetic, training holds one tensor for each block and the inside of a single block.
"""

from __future__ import annotations

import inspect

from flax import linen as nn


def rematerialize(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """Returns `block`, or with `remat` the form of it that is computed again for the gradient.

    The block is called as `block(...)(x)` or `block(...)(x, train)`. Outputs, gradients,
    parameters, statistics and random numbers are those of `block` in either case.
    """
    if not remat:
        return block
    takes_mode = "train" in inspect.signature(block.__call__).parameters
    return nn.remat(block, static_argnums=(2,) if takes_mode else ())
