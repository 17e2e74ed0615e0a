"""Precision and recall of generated samples among real ones.

The ball of an image reaches to its third nearest neighbour in its own set. Precision is the share
of the samples that lie inside the ball of a real image, and tells whether they look real. Recall is
the share of the real images that lie inside the ball of a sample, and tells whether all of the data
is covered. A collapsed generator has precision without recall. Source: Kynkäänniemi et al. 2019
(arXiv:1904.06991).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics.checks import check_features, check_same_width

# Rows of a block of distances: 0.4 GB for 50,000 samples.
_BLOCK = 1000


class PrecisionRecall(NamedTuple):
    """Precision and recall, both from 0 to 1."""

    precision: float
    recall: float


def precision_recall(
    samples: np.ndarray, real: np.ndarray, *, num_neighbors: int = 3
) -> PrecisionRecall:
    """Computes precision and recall from features `[N, D]` of samples and `[M, D]` of real images.

    Args:
      samples: Features of the samples, `[N, D]`.
      real: Features of the real images, `[M, D]`.
      num_neighbors: Rank of the neighbour that a ball reaches to.

    Raises:
      UserError: An array has another shape or values that are not finite, `num_neighbors` is below
        1, or a set has no more images than `num_neighbors`.

    >>> real = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> precision_recall(np.array([[0.5], [1.5], [20.0], [21.0]]), real, num_neighbors=1)
    PrecisionRecall(precision=0.5, recall=0.75)
    """
    samples, real = check_features(samples), check_features(real)
    check_same_width(samples, real)
    smallest = min(len(samples), len(real))
    if not 1 <= num_neighbors < smallest:
        raise UserError(
            f"num_neighbors={num_neighbors}: there are {len(samples)} samples and {len(real)} real "
            f"images; take 1 to {smallest - 1}."
        )
    return PrecisionRecall(
        precision=_covered(samples, real, _radii(real, num_neighbors)),
        recall=_covered(real, samples, _radii(samples, num_neighbors)),
    )


def _radii(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Returns the squared distance of each sample to its k-th neighbour, itself not counted."""
    # The nearest is the sample itself, at 0; a copy of it counts as a neighbour.
    blocks = [
        np.partition(squares, num_neighbors, axis=1)[:, num_neighbors]
        for squares in _squared_distances(features, features)
    ]
    return np.concatenate(blocks)


def _covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    """Returns the share of the points that lie in a ball; `radii` are squared."""
    inside = [(squares <= radii).any(axis=1) for squares in _squared_distances(points, centres)]
    return float(np.concatenate(inside).mean())


def _squared_distances(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the squared distances `[N, M]`, in blocks of rows."""
    squares = np.square(second).sum(axis=1)
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        distances = np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ second.T
        yield np.maximum(distances, 0)
