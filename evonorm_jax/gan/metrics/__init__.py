"""Measures of generated images, computed in NumPy alone from the features of a network."""

from evonorm_jax.gan.metrics.class_agreement import conditional_accuracy, within_class_variance
from evonorm_jax.gan.metrics.frechet import Moments, feature_moments, frechet_distance
from evonorm_jax.gan.metrics.inception_score import Score, inception_score
from evonorm_jax.gan.metrics.kernel_distance import kernel_distance
from evonorm_jax.gan.metrics.precision_recall import PrecisionRecall, precision_recall

__all__ = [
    "Moments",
    "PrecisionRecall",
    "Score",
    "conditional_accuracy",
    "feature_moments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
    "within_class_variance",
]
