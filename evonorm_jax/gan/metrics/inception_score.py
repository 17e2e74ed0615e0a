"""The Inception Score: it is high where a classifier is sure of each image and the classes vary.

    exp(mean KL(p(y|x) || p(y)))

It goes from 1, where every image looks alike, to the number of classes. Source: Salimans et al.
2016 (arXiv:1606.03498). The mean and the standard deviation over 10 parts of the samples are
reported. The samples are shuffled first, because a part of class-sorted samples would hold a class
or two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics.checks import check_features


class Score(NamedTuple):
    """The mean and the standard deviation of a figure over parts of the samples or over draws."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, *, num_splits: int = 10, seed: int = 2020) -> Score:
    """Computes the score of N images; the shuffle and the parts are those of torch-fidelity.

    Args:
      logits: Logits of K classes, `[N, K]`; for the Inception network those without the bias of its
        last layer.
      num_splits: Number of parts of the samples to score.
      seed: Seed of the shuffle.

    Raises:
      UserError: The logits have another shape or values that are not finite, or the number of parts
        is below 1 or above that of the samples.

    >>> inception_score(100 * np.eye(4)[np.arange(40) % 4], num_splits=1)
    Score(mean=4.0, std=0.0)
    """
    logits = check_features(logits)
    count = len(logits)
    if not 1 <= num_splits <= count:
        raise UserError(
            f"num_splits={num_splits}: {count} samples make between 1 and {count} parts."
        )
    logits = logits[np.random.RandomState(seed).permutation(count)]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    scores = []
    for i in range(num_splits):
        part = log_p[i * count // num_splits : (i + 1) * count // num_splits]
        p = np.exp(part)
        # A class that no image of the part can be adds 0, not 0 * log(0).
        log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (part - log_mean)).sum(axis=1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))
