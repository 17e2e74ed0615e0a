"""How a candidate is judged: everything but the data that decides its scores (paper, section 3).

>>> ProxyProtocol(num_steps=300).to_dict()["num_steps"]
300
>>> ProxyProtocol.from_dict(ProxyProtocol().to_dict()) == ProxyProtocol()
True
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.filters import FilterConfig

SCHEDULES = ("constant", "cosine")
DEFAULT_FILTERS = FilterConfig()


@dataclasses.dataclass(frozen=True)
class AbortRule:
    """Ends a run whose training loss shows that it learns nothing.

    Attributes:
      step: The step at which it looks.
      window: The number of steps up to that one that it averages.
      max_loss: A larger mean loss, in nats, ends the run. Guessing ten classes costs 2.303.
    """

    step: int
    window: int
    max_loss: float


@dataclasses.dataclass(frozen=True)
class Stability:
    """The paper's test of stability. The paper gives the first two numbers; the others are ours.

    Attributes:
      num_steps: The steps of gradient ascent on the kernels of the convolutions; the paper's 100.
        0 leaves the test out.
      max_gradient_norm: A larger norm at any step rejects; the paper's 1e8.
      step_size: The length of a kernel's step as a share of the norm of the kernel, which is kept:
        growth of the weights alone must not count.
      difference: The ascent follows the Hessian times the gradient, taken as a difference of two
        gradients this share of a kernel's norm apart. So it needs no second derivative, which
        would have to be compiled for each candidate.
      anchor: The index of the anchor that is tested.
    """

    num_steps: int = 100
    max_gradient_norm: float = 1e8
    step_size: float = 0.1
    difference: float = 1e-3
    anchor: int = 0


@dataclasses.dataclass(frozen=True)
class ProxyProtocol:
    """How candidates are trained and judged; the defaults are the paper's for EvoNorm-B.

    Where the paper gives no value, the default is ours and the description says so.

    Attributes:
      anchors: The networks.
      crop_size: The size in pixels of the random crops that are trained on; 0 trains on whole
        images. Evaluation always sees whole images.
      batch_size: The batch size of training.
      learning_rate: The learning rate at the start.
      momentum: Nesterov's momentum.
      weight_decay: The weight decay of kernels; other parameters have none, as in the authors' code
        of the layers.
      num_steps: The number of training steps; 2,000 for the B series, 5,000 for the S series.
      schedule: "constant" (B) or "cosine" (S), which ends in 0 at `num_steps`.
      eval_batch_size: The batch size of evaluation; it changes no result.
      quality_steps: The number of steps, the first of `num_steps`, after which accuracy is checked.
      quality_accuracy: An accuracy in percent; less than this on any anchor rejects.
      quality_examples: How many examples of the evaluation split the check takes, 0 for all. Ours:
        with 1,024 the accuracy's standard error is 1.3 points; all 10,000 would cost as much as a
        third of the training before them.
      nonfinite_rejects: Whether a loss that is not finite rejects. Otherwise it ends the training
        on that anchor, whose accuracy then is that of guessing.
      stability: The test of stability.
      filters: Thresholds of the filters before training; None trains everything that depends on x.
      abort_rules: The rules that end a run early. Ours; `experiments.false_rejects` measures how
        often they are wrong.
      num_groups: The number of groups of the index set (w, h, c/g); the authors' code has 32.
    """

    anchors: tuple[Anchor, ...] = ANCHOR_SIZES["full"]
    crop_size: int = 24
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    num_steps: int = 2_000
    schedule: str = "constant"
    eval_batch_size: int = 512
    quality_steps: int = 100
    quality_accuracy: float = 20.0
    quality_examples: int = 1_024
    nonfinite_rejects: bool = True
    stability: Stability = Stability()
    filters: FilterConfig | None = DEFAULT_FILTERS
    abort_rules: tuple[AbortRule, ...] = (AbortRule(20, 10, 2.32), AbortRule(50, 10, 2.30))
    num_groups: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple(self.anchors))
        object.__setattr__(self, "abort_rules", tuple(self.abort_rules))
        for field in ("batch_size", "num_steps", "eval_batch_size", "num_groups"):
            _check(field, getattr(self, field), getattr(self, field) >= 1, "at least 1")
        for field in ("crop_size", "quality_examples"):
            _check(field, getattr(self, field), getattr(self, field) >= 0, "0 or more")
        for rule in self.abort_rules:
            within = 1 <= rule.window <= rule.step
            _check("abort_rules", rule, within, "of a window from 1 to the step that it looks at")
        within = 1 <= self.quality_steps <= self.num_steps
        _check("quality_steps", self.quality_steps, within, f"1 to num_steps={self.num_steps}")
        _check("schedule", self.schedule, self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        _check("anchors", self.anchors, len(self.anchors) > 0, "at least one network")
        distinct = len(set(self.anchor_names)) == len(self.anchors)
        _check("anchors", self.anchor_names, distinct, "of different names")
        place, count = self.stability.anchor, len(self.anchors)
        _check("stability.anchor", place, 0 <= place < count, f"0 to {count - 1}")

    @property
    def anchor_names(self) -> tuple[str, ...]:
        """The names of a candidate's scores."""
        return tuple(anchor.name for anchor in self.anchors)

    def learning_rates(self) -> optax.Schedule:
        """Returns the learning rate as a function of the step."""
        if self.schedule == "constant":
            return optax.constant_schedule(self.learning_rate)
        return optax.cosine_decay_schedule(self.learning_rate, self.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, for `json.dumps`; two protocols are equal if their fields are."""
        content = dataclasses.asdict(self)
        for anchor, fields in zip(self.anchors, content["anchors"], strict=True):
            fields["fields"] = dict(anchor.fields)
        return _plain(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ProxyProtocol":
        """Returns the protocol that `to_dict` was called on, from a config or a ledger.

        Raises:
          UserError: A field is unknown or out of range.
        """
        fields = dict(content)
        if unknown := fields.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise UserError(f"unknown field {sorted(unknown)[0]!r} of a search protocol")
        if "anchors" in fields:
            fields["anchors"] = tuple(Anchor(**anchor) for anchor in fields["anchors"])
        if "stability" in fields:
            fields["stability"] = Stability(**fields["stability"])
        if fields.get("filters") is not None:
            fields["filters"] = FilterConfig(**fields["filters"])
        if "abort_rules" in fields:
            fields["abort_rules"] = tuple(AbortRule(**rule) for rule in fields["abort_rules"])
        return cls(**fields)


def _plain(value: Any) -> Any:
    """Replaces tuples by lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check(field: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(f"{field}={value!r} of a search protocol must be {rule}")
