"""The engine: decides one candidate, from its graph to its scores or the reason of its rejection.

Most candidates are worthless, and an engine is fast by how little it spends on those. In order:

    filters    milliseconds in NumPy (`filters.py`)
    cache      the scores of a candidate that computes the same function, if the caller keeps any
    quality    100 steps on each anchor; a loss that is not finite, or stays that of guessing, ends
               a run early; less than 20 % on any anchor rejects
    stability  gradient ascent on the kernels (`stability.py`)
    training   the rest of the steps on each anchor, from where the first 100 ended

Nothing is compiled for a candidate before the last stage (`stitched.py`). There it may pay: on an
accelerator, where a step in pieces is bound by the launches of its many small programs, survivors
get a compiled network each; on CPUs, where the pieces are as fast as the whole, nobody does.

>>> from evonorm_jax.data import dataset_config
>>> from evonorm_jax.search import Graph
>>> engine = Engine(Protocol(crop_size=0), dataset_config("digits", "embedded"))
>>> engine.evaluate(Graph.from_text("n4 = exp(v1)"), seed=0).reason
'no_path_from_x'
"""

import dataclasses
import enum
import math
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import jax
import ml_collections
import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.search.canonical import canonical, canonical_hash
from evonorm_jax.search.filters import functional_hash, reject
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.protocol import Protocol
from evonorm_jax.search.space import check_depends_on_x
from evonorm_jax.search.stability import worst_gradient_norm
from evonorm_jax.search.trainer import AnchorTrainer, Data, Run, StopTraining


class Stage(enum.StrEnum):
    """What decided; in the order of the cascade."""

    FILTERS = "filters"
    CACHE = "cache"
    QUALITY = "quality"
    STABILITY = "stability"
    TRAINING = "training"
    SCORED = "scored"


class TrainingReason(enum.StrEnum):
    """Why a layer was rejected after some training; those before it are `filters.Reason`."""

    NONFINITE_LOSS = "nonfinite_loss"
    HOPELESS = "hopeless"
    LOW_ACCURACY = "low_accuracy"
    UNSTABLE = "unstable"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What became of a candidate.

    Attributes:
      stage: a value of `Stage`: what decided. "evaluation" where workers failed to evaluate it.
      reason: of its rejection, a value of `filters.Reason` or `TrainingReason`; None if it has
        scores.
      scores: accuracy in percent by anchor, in their order; empty where rejected.
      seconds: that it took.
      steps: of training on all anchors together.
      details: `canonical` and `function`, the hashes of the graph; and as far as it came
        `quality`, accuracy by anchor after the first steps, `losses`, by anchor the mean loss of
        every ten of those steps, `gradient_norm`, the worst of the stability test, `message` of
        the rejection and `anchor`, the network that led to it.
    """

    stage: str
    reason: str | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields, for `json.dumps`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Evaluation":
        """What `to_json` made.

        >>> evaluation = Evaluation("scored", scores={"resnet50_cifar": 51.5}, steps=2_000)
        >>> Evaluation.from_json(evaluation.to_json()) == evaluation
        True
        """
        return cls(**content)


class Engine:
    """Evaluates candidates by one protocol; one for a process.

    It loads the data once, and compiles what all candidates share when the first of them needs it.

    Args:
      protocol: how a candidate is judged.
      data_config: of `evonorm_jax.data.dataset_config`, held in memory. Crop size and padding come
        from the protocol. A search that is to report accuracies on the test split must not choose
        by it: name a part of the training split as `eval_split`.
      cache: evaluations by functional hash; what is found there is not trained again, and what was
        trained is put there. None trains everything, and makes `evaluate` a pure function.
      whole_network: compile a network for each candidate: "never", "survivors" or "always"; None
        means "never" on a CPU and "survivors" elsewhere.

    Raises:
      UserError: the data do not suit the protocol, or cannot be read.
    """

    def __init__(
        self,
        protocol: Protocol,
        data_config: ml_collections.ConfigDict,
        *,
        cache: MutableMapping[str, Evaluation] | None = None,
        whole_network: str | None = None,
    ) -> None:
        if whole_network is None:
            whole_network = "never" if jax.default_backend() == "cpu" else "survivors"
        if whole_network not in ("never", "survivors", "always"):
            raise UserError(
                f"whole_network={whole_network!r}: choose one of never, survivors, always"
            )
        self.protocol = protocol
        self.data = Data(data_config, protocol)
        self.cache = cache
        self.trainers = [AnchorTrainer(anchor, self.data, protocol) for anchor in protocol.anchors]
        self._whole_network = whole_network

    def evaluate(self, graph: Graph, seed: int) -> Evaluation:
        """Decides a candidate.

        The same graph, seed and protocol give the same verdict and scores on the same hardware,
        whatever was evaluated before, unless there is a cache. Only `seconds` differs.

        Args:
          graph: any of the space; layers that cannot work are rejected, not refused.
          seed: of the initial weights, of the order of the examples and of their augmentation.
        """
        start = time.perf_counter()
        details: dict[str, Any] = {"canonical": canonical_hash(graph)}

        def decided(stage: Stage, reason: str | None, **fields: Any) -> Evaluation:
            seconds = time.perf_counter() - start
            return Evaluation(str(stage), reason, seconds=seconds, details=details, **fields)

        if self.protocol.filters is not None:
            if (rejection := reject(graph, self.protocol.filters)) is not None:
                details["message"] = rejection.detail
                return decided(Stage.FILTERS, str(rejection.reason))
        else:
            check_depends_on_x(graph)
        details["function"] = function = functional_hash(graph)
        if self.cache is not None and function in self.cache:
            known = self.cache[function]
            details |= {"cached": known.stage}
            return decided(Stage.CACHE, known.reason, scores=known.scores)

        runs: list[Run] = []
        try:
            scores = self._train(canonical(graph), seed, runs, details)
            stage, reason = Stage.SCORED, None
        except _Rejected as rejected:
            details["message"] = str(rejected)
            scores, stage, reason = {}, rejected.stage, str(rejected.reason)
        steps = sum(run.num_steps for run in runs)
        evaluation = decided(stage, reason, scores=scores, steps=steps)
        if self.cache is not None:
            self.cache[function] = evaluation
        return evaluation

    def _train(
        self, graph: Graph, seed: int, runs: list[Run], details: dict[str, Any]
    ) -> dict[str, float]:
        """The scores; what was found on the way goes into `runs` and `details`."""
        protocol = self.protocol
        details |= {"quality": {}, "losses": {}}
        # Every anchor may reject, so each gets its first steps before one gets them all.
        for trainer in self.trainers:
            details["anchor"] = trainer.anchor.name
            runs.append(trainer.start(graph, seed))
            if self._whole_network == "always":
                runs[-1].network = trainer.network(graph, whole=True)
            self._check_quality(trainer.anchor.name, runs[-1], details)
        if protocol.stability.num_steps:
            self._check_stability(graph, seed, details)
        if protocol.num_steps == protocol.quality_steps and not protocol.quality_examples:
            del details["anchor"]
            return dict(details["quality"])  # nothing is left to train or to look at
        scores = {}
        for trainer, run in zip(self.trainers, runs, strict=True):
            details["anchor"] = trainer.anchor.name
            if self._whole_network == "survivors" and protocol.num_steps > run.num_steps:
                run.network = trainer.network(graph, whole=True)
            goes_on = self._train_run(run, protocol.num_steps, Stage.TRAINING)
            scores[trainer.anchor.name] = run.accuracy() if goes_on else self._guessing
        del details["anchor"]
        return scores

    def _check_quality(self, anchor: str, run: Run, details: dict[str, Any]) -> None:
        protocol = self.protocol
        try:
            goes_on = self._train_run(run, protocol.quality_steps, Stage.QUALITY)
        finally:
            tens = range(0, run.num_steps, 10)
            details["losses"][anchor] = [float(np.mean(run.losses[i : i + 10])) for i in tens]
        accuracy = run.accuracy(protocol.quality_examples) if goes_on else self._guessing
        details["quality"][anchor] = accuracy
        if accuracy < protocol.quality_accuracy:
            message = f"{accuracy:.1f} % after {run.num_steps} steps"
            raise _Rejected(TrainingReason.LOW_ACCURACY, Stage.QUALITY, message)

    @property
    def _guessing(self) -> float:
        """The accuracy of a network that answers at random, in percent."""
        return 100 / self.data.num_classes

    def _train_run(self, run: Run, num_steps: int, stage: Stage) -> bool:
        """Whether the run has come so far; False once its loss is not finite and may be so."""
        if run.losses and not math.isfinite(run.losses[-1]):
            return False
        try:
            run.train(num_steps)
        except StopTraining as stop:
            if not stop.hopeless and not self.protocol.nonfinite_rejects:
                return False
            reason = TrainingReason.HOPELESS if stop.hopeless else TrainingReason.NONFINITE_LOSS
            raise _Rejected(reason, stage, str(stop)) from stop
        return True

    def _check_stability(self, graph: Graph, seed: int, details: dict[str, Any]) -> None:
        config = self.protocol.stability
        trainer = self.trainers[config.anchor]
        details["anchor"] = trainer.anchor.name
        params, batch_stats, _ = trainer.initial_state(graph, seed)
        images, labels = next(self.data.train_batches(seed))
        network = trainer.network(graph, whole=self._whole_network == "always")
        norm, steps = worst_gradient_norm(network, params, batch_stats, images, labels, config)
        details["gradient_norm"] = norm
        if norm > config.max_gradient_norm:
            message = f"gradient norm {norm:.1e} after {steps} steps of ascent"
            raise _Rejected(TrainingReason.UNSTABLE, Stage.STABILITY, message)


class _Rejected(Exception):
    """Ends an evaluation."""

    def __init__(self, reason: TrainingReason, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.stage = stage
