"""Measures of whether class-conditional samples show their class, and more of it than one picture.

Neither figure says anything without the other: a collapsed generator of digits had an accuracy of
1.000 while all samples of a class were the same picture.
"""

from __future__ import annotations

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics.checks import check_features, check_same_width


def conditional_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of N samples whose logits `[N, K]` are largest at their label `[N]`.

    Raises:
      UserError: An array has another shape or dtype, or a label is none of the K classes.

    >>> conditional_accuracy(np.eye(3), np.array([0, 1, 0]))
    0.6666666666666666
    """
    logits = check_features(logits)
    labels = _check_labels(labels, len(logits))
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(
            f"labels run from {labels.min()} to {labels.max()}, but the classifier knows the "
            f"classes 0 to {logits.shape[1] - 1}."
        )
    return float((logits.argmax(axis=1) == labels).mean())


def within_class_variance(
    samples: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> float:
    """Computes the variance of samples within their classes, over that of real images.

    It is 1 where the samples vary as the data does, and 0 where all samples of a class are one
    picture.

    Args:
      samples: Features of the samples, `[N, D]`.
      labels: Classes of the samples, `[N]` integers.
      real: Features of real images, `[M, D]`.
      real_labels: Classes of the real images, `[M]` integers.

    Raises:
      UserError: An array has another shape, or the real images do not vary within a class.
    """
    samples, real = check_features(samples), check_features(real)
    check_same_width(samples, real)
    of_real = _variance(real, _check_labels(real_labels, len(real)))
    if of_real == 0:
        raise UserError(
            f"the {len(real)} real images do not vary within a class: take more images of a class."
        )
    return _variance(samples, _check_labels(labels, len(samples))) / of_real


def _variance(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the unbiased variance within classes, summed over features.

    Classes count by their size.
    """
    squares, degrees = 0.0, 0
    for label in np.unique(labels):
        of_class = features[labels == label]
        squares += float(np.square(of_class - of_class.mean(axis=0)).sum())
        degrees += len(of_class) - 1
    return squares / degrees if degrees else 0.0


def _check_labels(labels: np.ndarray, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels are {labels.dtype}{list(labels.shape)}: expected integers [{count}], one for "
            "each sample."
        )
    return labels
