"""The engine: decides one candidate, from its graph to its scores or the reason of its rejection.

Most candidates are worthless, and an engine is fast by how little it spends on those. In order::

    filters    milliseconds in NumPy (`filters.py`)
    quality    100 steps on each anchor; a loss that is not finite, or stays that of guessing, ends
               a run early; less than 20 % on any anchor rejects
    stability  gradient ascent on the kernels (`stability.py`)
    training   the rest of the steps on each anchor, from where the first 100 ended

Nothing is compiled for a candidate before the last stage (`stitched.py`). There it may pay. On an
accelerator, where a step in pieces is bound by the launches of its many small programs, survivors
get a compiled network each. On CPUs, where the pieces are as fast as the whole, no candidate does.

>>> from evonorm_jax.data import dataset_config
>>> engine = Engine(ProxyProtocol(crop_size=0), dataset_config("digits", "embedded"))
>>> engine.evaluate(Graph.from_text("n4 = exp(v1)"), seed=0).reason
'no_path_from_x'
"""

import math
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.canonical import canonical, canonical_hash
from evonorm_jax.graphs.graph import Graph, check_depends_on_x
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.proxy_data import ProxyData
from evonorm_jax.search.engine.stability import worst_gradient_norm
from evonorm_jax.search.engine.trainer import AnchorRun, AnchorTrainer, StopTraining
from evonorm_jax.search.engine.verdicts import DecidingStage, TrainingReason, Verdict


class Engine:
    """Evaluates candidates by one protocol. A process needs one.

    It loads the data once, and compiles what all candidates share when the first of them needs it.

    Args:
      protocol: How candidates are trained and judged.
      data_config: A config of `evonorm_jax.data.dataset_config`, held in memory. Crop size and
        padding come from the protocol. A search that is to report accuracies on the test split must
        not choose by it: name a part of the training split as `eval_split`.
      whole_network: For whom a whole network is compiled: "never", "survivors" or "always". None
        means "never" on a CPU and "survivors" elsewhere.

    Raises:
      UserError: The data do not suit the protocol, or cannot be read.
    """

    def __init__(
        self,
        protocol: ProxyProtocol,
        data_config: ml_collections.ConfigDict,
        *,
        whole_network: str | None = None,
    ) -> None:
        if whole_network is None:
            whole_network = "never" if jax.default_backend() == "cpu" else "survivors"
        if whole_network not in ("never", "survivors", "always"):
            raise UserError(
                f"whole_network={whole_network!r}: choose one of never, survivors, always"
            )
        self.protocol = protocol
        self.data = ProxyData(data_config, protocol)
        self.trainers = [AnchorTrainer(anchor, self.data, protocol) for anchor in protocol.anchors]
        self._whole_network = whole_network

    def evaluate(self, graph: Graph, seed: int, function: str | None = None) -> Verdict:
        """Decides a candidate.

        This is a pure function: the same graph, seed and protocol give the same verdict and scores
        on the same hardware, whatever was evaluated before. Only `seconds` differs.

        Args:
          graph: The candidate. Layers that cannot work are rejected, not refused.
          seed: The seed of the initial weights, of the order of the examples and of their
            augmentation.
          function: The functional hash of a candidate that has passed the filters already. The
            engine then neither filters nor hashes it again.

        Raises:
          UserError: The protocol has no filters and no path leads from x to the output.
        """
        start = time.perf_counter()
        details: dict[str, Any] = {"canonical": canonical_hash(graph)}

        def decided(stage: DecidingStage, reason: str | None, **fields: Any) -> Verdict:
            seconds = time.perf_counter() - start
            return Verdict(str(stage), reason, seconds=seconds, details=details, **fields)

        if function is None:
            if self.protocol.filters is None:
                check_depends_on_x(graph)
            elif (rejection := reject(graph, self.protocol.filters)) is not None:
                details["message"] = rejection.detail
                return decided(DecidingStage.FILTERS, str(rejection.reason))
            function = functional_hash(graph)
        details["function"] = function

        runs: list[AnchorRun] = []
        try:
            scores = self._train(canonical(graph), seed, runs, details)
            stage, reason = DecidingStage.SCORED, None
        except _Rejected as rejected:
            details["message"] = str(rejected)
            scores, stage, reason = {}, rejected.stage, str(rejected.reason)
        steps = sum(run.num_steps for run in runs)
        return decided(stage, reason, scores=scores, steps=steps)

    def _train(
        self, graph: Graph, seed: int, runs: list[AnchorRun], details: dict[str, Any]
    ) -> dict[str, float]:
        """Returns the scores; what is found on the way goes into `runs` and `details`."""
        protocol = self.protocol
        details |= {"quality": {}, "losses": {}}
        # Every anchor may reject, so each trains its first steps before any trains the rest.
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
            goes_on = self._train_run(run, protocol.num_steps, DecidingStage.TRAINING)
            scores[trainer.anchor.name] = run.accuracy() if goes_on else self._guessing
        del details["anchor"]
        return scores

    def _check_quality(self, anchor: str, run: AnchorRun, details: dict[str, Any]) -> None:
        """Trains the first steps, and rejects what is not accurate enough after them."""
        protocol = self.protocol
        try:
            goes_on = self._train_run(run, protocol.quality_steps, DecidingStage.QUALITY)
        finally:
            tens = range(0, run.num_steps, 10)
            details["losses"][anchor] = [float(np.mean(run.losses[i : i + 10])) for i in tens]
        accuracy = run.accuracy(protocol.quality_examples) if goes_on else self._guessing
        details["quality"][anchor] = accuracy
        if accuracy < protocol.quality_accuracy:
            message = f"{accuracy:.1f} % after {run.num_steps} steps"
            raise _Rejected(TrainingReason.LOW_ACCURACY, DecidingStage.QUALITY, message)

    @property
    def _guessing(self) -> float:
        """The accuracy of a network that answers at random, in percent."""
        return 100 / self.data.num_classes

    def _train_run(self, run: AnchorRun, num_steps: int, stage: DecidingStage) -> bool:
        """Trains up to `num_steps`.

        Returns:
          False if the loss became non-finite and the protocol tolerates that.
        """
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
        """Rejects a layer whose gradients adversarial weights can make too large."""
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
            raise _Rejected(TrainingReason.UNSTABLE, DecidingStage.STABILITY, message)


class _Rejected(Exception):
    """Ends an evaluation with a rejection."""

    def __init__(self, reason: TrainingReason, stage: DecidingStage, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.stage = stage
