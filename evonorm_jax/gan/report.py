"""All figures of a set of samples, each with the numbers that it is read against.

No figure stands alone. Its name says which kind of network it is from. Beside it stand the numbers
of samples, and the same figure for real images that the reference does not hold. The latter is the
best that a generator can hope for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from evonorm_jax.errors import UserError
from evonorm_jax.gan.features import Features
from evonorm_jax.gan.metrics.class_agreement import conditional_accuracy, within_class_variance
from evonorm_jax.gan.metrics.frechet import (
    Moments,
    check_rank,
    feature_moments,
    frechet_distance,
)
from evonorm_jax.gan.metrics.inception_score import inception_score
from evonorm_jax.gan.metrics.kernel_distance import kernel_distance
from evonorm_jax.gan.metrics.precision_recall import precision_recall
from evonorm_jax.metrics import REAL_SUFFIX

_SUBSET_SIZE = 1000  # of the kernel distance, where there are as many samples


class _Names(NamedTuple):
    fid: str
    kid: str
    score: str
    precision: str
    recall: str


_INCEPTION = _Names("fid", "kid", "inception_score", "precision", "recall")
_CLASSIFIER = _Names(
    *("classifier_fid", "classifier_kid", "classifier_score"),
    *("classifier_precision", "classifier_recall"),
)
#: By the kind of the network.
_NAMES = {"inception": _INCEPTION, "classifier": _CLASSIFIER}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of generated images.

    Attributes:
      name: Name of the figure, e.g. "classifier_fid".
      value: Value for the samples.
      spread: Standard deviation over parts or subsets of the samples; None for a figure without
        them.
      num_samples: Number of samples.
      reference: Name of the images that the samples were compared with, e.g. "train".
      num_reference: Number of these images.
      real: Value for held-out real images; None where none were given.
      num_real: Number of held-out real images; 0 where none were given.
    """

    name: str
    value: float
    spread: float | None
    num_samples: int
    reference: str
    num_reference: int
    real: float | None
    num_real: int

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.3g}"
        real = (
            "no held-out real images to compare with"
            if self.real is None
            else f"{self.num_real:,} real images: {self.real:.4g}"
        )
        return (
            f"{self.name} {self.value:.4g}{spread} ({self.num_samples:,} samples against "
            f"{self.num_reference:,} of {self.reference}; {real})"
        )


def measure(
    samples: Features,
    reference: Features,
    held_out: Features | None = None,
    *,
    reference_name: str = "train",
) -> list[Figure]:
    """Computes all figures of samples against real images.

    A classifier with labelled samples also gives the figures of classes. The variance within a
    class needs labels of the reference, too.

    Args:
      samples: Features of the samples, with the labels that they were drawn for.
      reference: Features of real images, e.g. of the training set.
      held_out: Features of other real images, e.g. of the test set, for the figures of real images
        against real images; None leaves these out.
      reference_name: Name of the reference; the FID against training and against validation images
        differs by several points.

    Raises:
      UserError: The features are from different networks, or the samples or the reference have no
        more images than features.
    """
    sets = [samples, reference, *([] if held_out is None else [held_out])]
    networks = sorted({features.network for features in sets})
    if len(networks) > 1:
        raise UserError(
            f"the features are from different networks ({'; '.join(networks)}): figures compare "
            "only within one."
        )
    of_reference = feature_moments(reference.values)
    for moments in (feature_moments(samples.values), of_reference):
        check_rank(moments)
    of_real = {} if held_out is None else _values(held_out, reference, of_reference)
    return [
        Figure(
            name=name,
            value=value,
            spread=spread,
            num_samples=len(samples.values),
            reference=reference_name,
            num_reference=len(reference.values),
            real=of_real[name][0] if name in of_real else None,
            num_real=0 if held_out is None else len(held_out.values),
        )
        for name, (value, spread) in _values(samples, reference, of_reference).items()
    ]


def scalars(figures: Sequence[Figure]) -> dict[str, float]:
    """Converts figures to the scalars of a log.

    Beside each figure stand its spread (`_std`) and that of real images (`_real`) where there are
    any. The numbers of samples come last.

    >>> figure = Figure("kid", 0.5, 0.1, 100, "train", 200, 0.25, 50)
    >>> scalars([figure])  # doctest: +NORMALIZE_WHITESPACE
    {'kid': 0.5, 'kid_std': 0.1, 'kid_real': 0.25, 'num_samples': 100, 'num_reference': 200,
     'num_real': 50}
    """
    result: dict[str, float] = {}
    for figure in figures:
        result[figure.name] = figure.value
        if figure.spread is not None:
            result[f"{figure.name}_std"] = figure.spread
        if figure.real is not None:
            result[f"{figure.name}{REAL_SUFFIX}"] = figure.real
    if figures:
        counts = ("num_samples", "num_reference", "num_real")
        result |= {name: getattr(figures[0], name) for name in counts}
    return result


def _values(
    features: Features, reference: Features, of_reference: Moments
) -> dict[str, tuple[float, float | None]]:
    """Computes the value and the spread of every figure; the spread is None where there is none."""
    names = _NAMES[features.network.split(" ", 1)[0]]
    values: dict[str, tuple[float, float | None]] = {}
    values[names.fid] = frechet_distance(feature_moments(features.values), of_reference), None
    size = min(_SUBSET_SIZE, len(features.values), len(reference.values))
    values[names.kid] = kernel_distance(features.values, reference.values, subset_size=size)
    num_splits = min(10, len(features.logits))
    values[names.score] = inception_score(features.logits, num_splits=num_splits)
    covered = precision_recall(features.values, reference.values)
    values[names.precision], values[names.recall] = (covered[0], None), (covered[1], None)
    # The 1,008 classes of Inception are not those of the data set.
    if names is _CLASSIFIER and features.labels is not None:
        values["conditional_accuracy"] = (
            conditional_accuracy(features.logits, features.labels),
            None,
        )
        if reference.labels is not None:
            variance = within_class_variance(
                features.values, features.labels, reference.values, reference.labels
            )
            values["within_class_variance"] = variance, None
    return values
