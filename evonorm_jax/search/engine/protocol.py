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
from evonorm_jax.field_rules import (
    Rule,
    block,
    check_fields,
    check_known,
    check_plain,
    flag,
    number,
    one_of,
    shorten,
    text,
    whole,
)
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.filters import FilterConfig

SCHEDULES = ("constant", "cosine")
DEFAULT_FILTERS = FilterConfig()

#: The rules of the fields of a protocol.
FIELDS = {
    "crop_size": whole(0, 2**16),
    "batch_size": whole(1, 2**20),
    "learning_rate": number(at_least=0),
    "momentum": number(at_least=0, below=1),
    "weight_decay": number(at_least=0),
    "num_steps": whole(1),
    "schedule": one_of(SCHEDULES),
    "eval_batch_size": whole(1, 2**20),
    "quality_steps": whole(1),
    "quality_accuracy": number(at_least=0, at_most=100),
    "quality_examples": whole(0),
    "nonfinite_rejects": flag(),
    "num_groups": whole(1, 2**20),
}
_STABILITY_FIELDS = {
    "num_steps": whole(0),
    "max_gradient_norm": number(above=0),
    "step_size": number(above=0),
    "difference": number(above=0),
    "anchor": whole(0),
}
_FILTER_FIELDS = {
    "min_variation": number(at_least=0),
    "num_blocks": whole(1, 1000),
    "max_activation": number(above=0),
}
_ABORT_RULE_FIELDS = {"step": whole(1), "window": whole(1), "max_loss": number()}
_ANCHOR_FIELDS = {"model": text(), "fields": block(), "name": text()}


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
        check_fields(vars(self), FIELDS, "protocol")
        check_fields(vars(self.stability), _STABILITY_FIELDS, "protocol.stability")
        if self.filters is not None:
            check_fields(vars(self.filters), _FILTER_FIELDS, "protocol.filters")
        for rule in self.abort_rules:
            check_fields(vars(rule), _ABORT_RULE_FIELDS, "protocol.abort_rules")
            within = 1 <= rule.window <= rule.step
            _check("abort_rules", rule, within, "of a window from 1 to the step that it looks at")
        within = 1 <= self.quality_steps <= self.num_steps
        _check("quality_steps", self.quality_steps, within, f"1 to num_steps={self.num_steps}")
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
          UserError: A field is unknown, of another type or out of range, or an anchor is no
            network.
        """
        check_fields({"protocol": content}, {"protocol": block()}, "")
        check_plain(content, "protocol")
        fields = dict(content)
        check_known(fields, [field.name for field in dataclasses.fields(cls)], "protocol")
        parts: dict[str, tuple[type, Mapping[str, Rule]]] = {
            "anchors": (Anchor, _ANCHOR_FIELDS),
            "abort_rules": (AbortRule, _ABORT_RULE_FIELDS),
            "stability": (Stability, _STABILITY_FIELDS),
            "filters": (FilterConfig, _FILTER_FIELDS),
        }
        for name in fields.keys() & parts.keys():
            kind, rules = parts[name]
            value, where = fields[name], f"protocol.{name}"
            if name in ("anchors", "abort_rules"):
                if not isinstance(value, tuple | list):
                    raise UserError(f"{where}={shorten(value)}; it must be a list of blocks.")
                found = [_part(kind, item, rules, f"{where}[{i}]") for i, item in enumerate(value)]
                fields[name] = tuple(found)
            elif name == "stability" or value is not None:
                fields[name] = _part(kind, value, rules, where)
        protocol = cls(**fields)
        for anchor in protocol.anchors:  # a network, and its fields, that there are
            anchor.create(10, "evonorm_s0")
        return protocol


def _part(kind: type, content: Any, rules: Mapping[str, Rule], name: str) -> Any:
    """Returns an anchor, a rule or the like from its fields."""
    block().check(name, content)
    check_known(content, list(rules), name)
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    check_fields(content, {field: rules[field] for field in needed}, name)
    check_fields(content, rules, name, required=False)
    return kind(**content)


def _plain(value: Any) -> Any:
    """Replaces tuples by lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _check(field: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(f"protocol.{field}={shorten(value)} must be {rule}.")
