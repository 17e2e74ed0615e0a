"""Checks of the features that the metrics take."""

from __future__ import annotations

import numpy as np

from evonorm_jax.errors import UserError


def check_features(features: np.ndarray, *, at_least: int = 1) -> np.ndarray:
    """Checks features `[N, D]` and returns them in float64.

    Raises:
      UserError: The features have another shape, fewer than `at_least` samples, or values that are
        not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0 or len(features) < at_least:
        raise UserError(
            f"features have shape {features.shape}: expected [N, D], N at least {at_least}."
        )
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise UserError(
            f"{bad} of {len(features)} samples have features that are not finite: the images, or "
            "the network that sees them, hold NaN or infinity."
        )
    return features


def check_same_width(first: np.ndarray, second: np.ndarray) -> None:
    """Raises `UserError` unless both arrays of features, or of their means, are equally wide."""
    if first.shape[-1] != second.shape[-1]:
        raise UserError(
            f"features of {first.shape[-1]} and of {second.shape[-1]} numbers do not compare: take "
            "both from one network."
        )
