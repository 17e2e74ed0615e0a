"""What can become of a candidate: where it was decided, why it was rejected, what it scored.

The texts of these enumerations are what ledgers keep.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any


class DecidingStage(enum.StrEnum):
    """The stages that can decide a candidate, in the order in which they are passed."""

    FILTERS = "filters"
    QUALITY = "quality"
    STABILITY = "stability"
    TRAINING = "training"
    SCORED = "scored"


class Reason(enum.StrEnum):
    """Why a layer is not worth training; `filters.py` defines each."""

    NO_PATH_FROM_X = "no_path_from_x"
    NONFINITE = "nonfinite"
    CONSTANT = "constant"
    SAME_FOR_ALL_EXAMPLES = "same_for_all_examples"
    NO_SPATIAL_DEPENDENCE = "no_spatial_dependence"
    BLOW_UP = "blow_up"
    DEAD = "dead"
    DUPLICATE = "duplicate"


class TrainingReason(enum.StrEnum):
    """Why a layer was rejected after some training."""

    NONFINITE_LOSS = "nonfinite_loss"
    HOPELESS = "hopeless"
    LOW_ACCURACY = "low_accuracy"
    UNSTABLE = "unstable"


#: The reason of a candidate that several workers failed to evaluate.
EVALUATION_FAILED = "evaluation_failed"


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a filter rejects a layer.

    Attributes:
      reason: Which filter rejected it.
      detail: What the filter saw, for people.
    """

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a candidate, the result of its evaluation.

    Attributes:
      stage: What decided, a value of `DecidingStage`; "evaluation" where workers failed.
      reason: Why it was rejected, a value of `Reason` or `TrainingReason`, or `EVALUATION_FAILED`;
        None if it has scores.
      scores: Its accuracy in percent by anchor, in the order of the anchors; empty where rejected.
      seconds: How long the evaluation took.
      steps: The number of training steps on all anchors together.
      details: `canonical` and `function`, the hashes of the graph; and as far as it came `quality`,
        the accuracy by anchor after the first steps; `losses`, by anchor the mean loss of every ten
        of those steps; `gradient_norm`, the worst of the stability test; `message` of the
        rejection; and `anchor`, the network that led to it.
    """

    stage: str
    reason: str | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, for `json.dumps`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Verdict":
        """Returns what `to_dict` was called on.

        >>> verdict = Verdict("scored", scores={"resnet50_cifar": 51.5}, steps=2_000)
        >>> Verdict.from_dict(verdict.to_dict()) == verdict
        True
        """
        return cls(**content)
