"""The choice of the parameters that weight decay reaches."""

from __future__ import annotations

from typing import Any

import jax


def decay_mask(params: Any) -> Any:
    """Returns the tree of `params` with True for kernels, which decay, and False for the others.

    `scale`, `bias`, `v` and the baselines' own vectors do not decay, as in the authors' code.

    >>> decay_mask({"conv": {"kernel": 0.0, "bias": 0.0}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
