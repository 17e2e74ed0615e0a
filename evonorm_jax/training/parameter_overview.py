"""The table of parameters that a run leaves in `parameters.txt`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import traverse_util

_HEADER = ("Name", "Shape", "Dtype", "Size", "Mean", "Std")


def parameter_overview(params: Any) -> str:
    """Returns a table of all arrays: name, shape, dtype, size, mean, standard deviation, and total.

    >>> print(parameter_overview({"head": {"kernel": np.eye(2, dtype=np.float32)}}))
    | Name        | Shape  | Dtype   | Size | Mean | Std |
    |-------------|--------|---------|------|------|-----|
    | head/kernel | (2, 2) | float32 | 4    | 0.5  | 0.5 |
    Total: 4 parameters, 16 bytes
    <BLANKLINE>

    Args:
      params: Nested dictionaries of arrays.

    Returns:
      The table, with a line for each array in alphabetical order; it ends with a new line.
    """
    flat = jax.device_get(traverse_util.flatten_dict(params, sep="/"))
    rows = [_HEADER]
    for name, array in sorted(flat.items()):
        wide = np.asarray(array, np.float64)
        moments = (f"{value:.3g}" for value in (wide.mean(), wide.std()))
        rows.append((name, str(array.shape), str(array.dtype), f"{array.size:,}", *moments))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = (
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    header, *lines = (f"| {row} |" for row in cells)
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    size = sum(array.size for array in flat.values())
    num_bytes = sum(array.nbytes for array in flat.values())
    total = f"Total: {size:,} parameters, {num_bytes:,} bytes"
    return "\n".join((header, rule, *lines, total, ""))
