"""Which parameters of a network are weights that decay."""

from __future__ import annotations

from typing import Any

import jax


def decay_mask(params: Any) -> Any:
    """Returns the same tree with True for the parameters that weight decay reaches: the kernels.

    `scale`, `bias`, `v` and the baselines' own vectors do not decay, as in the authors' code.

    >>> decay_mask({"conv": {"kernel": 0.0, "bias": 0.0}})
    {'conv': {'bias': False, 'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
