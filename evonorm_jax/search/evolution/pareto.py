"""The Pareto front of candidates with several scores."""

from collections.abc import Sequence

import numpy as np


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Returns the indices of the rows that no other row dominates.

    A row dominates another if it is nowhere smaller and somewhere larger; so equal rows do not
    dominate each other.

    >>> pareto_front([[1, 5], [3, 3], [2, 2], [3, 3]])
    [0, 1, 3]
    """
    if not len(scores):
        return []
    values = np.asarray(scores, dtype=float)
    front: list[int] = []
    # In descending lexicographic order a row can be dominated by rows before it alone.
    for i in np.lexsort(values.T[::-1])[::-1]:
        others = values[front]
        if not ((others >= values[i]).all(axis=1) & (others > values[i]).any(axis=1)).any():
            front.append(int(i))
    return sorted(front)
