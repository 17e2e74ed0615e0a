"""The kernel distance between two sets of features (KID's formula).

It is the squared maximum mean discrepancy with the kernel k(x, y) = (x.y / D + 1)^3, estimated
without bias from subsets of both sets. Its expectation is 0 for two sets of samples from one
distribution, however few. So it is the distance to use where there are too few samples for the
Fréchet distance. Source: Binkowski et al. 2018 (arXiv:1801.01401).
"""

from __future__ import annotations

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics.checks import check_features, check_same_width
from evonorm_jax.gan.metrics.inception_score import Score


def kernel_distance(
    first: np.ndarray,
    second: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Score:
    """Computes the distance, as mean and standard deviation over the subsets of torch-fidelity.

    Args:
      first: Features of the first set, `[N, D]`.
      second: Features of the second set, `[M, D]`.
      num_subsets: Number of pairs of subsets to draw.
      subset_size: Number of samples of a subset, at least 2, drawn without repetition.
      seed: Seed of the draws.

    Raises:
      UserError: An array has another shape or values that are not finite, there is no subset, or a
        subset has fewer than 2 samples or more than a set.
    """
    first, second = check_features(first), check_features(second)
    check_same_width(first, second)
    smallest = min(len(first), len(second))
    if not 2 <= subset_size <= smallest or num_subsets < 1:
        raise UserError(
            f"{num_subsets} subsets of {subset_size} samples: there are {len(first)} and "
            f"{len(second)}; take at least 1 subset of 2 to {smallest} samples."
        )
    rng = np.random.RandomState(seed)

    def draw(features: np.ndarray) -> np.ndarray:
        return features[rng.choice(len(features), subset_size, replace=False)]

    distances = [_mmd2(draw(first), draw(second)) for _ in range(num_subsets)]
    return Score(float(np.mean(distances)), float(np.std(distances)))


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the unbiased estimate, which leaves out the pairs of a sample with itself."""
    size, width = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        k = a @ b.T / width + 1
        return k * k * k  # k**3 takes ten times as long

    xx, yy = kernel(x, x), kernel(y, y)
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (size * (size - 1)) - 2 * kernel(x, y).mean())
