"""Training of one candidate in one anchor network, and what all candidates share of it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.nodewise import initial_statistics
from evonorm_jax.models.classification import in_top
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.network import Network, Tree, WholeNetwork
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.proxy_data import ProxyData
from evonorm_jax.search.engine.stitched import StitchedNetwork, stitched_anchor


class AnchorTrainer:
    """What the candidates share in one anchor: initial weights, update, segments.

    Args:
      anchor: The network.
      data: What it is trained on.
      protocol: How it is trained.
    """

    def __init__(self, anchor: Anchor, data: ProxyData, protocol: ProxyProtocol) -> None:
        self.anchor = anchor
        self.data = data
        self.protocol = protocol
        self.stitched = stitched_anchor(anchor, data.num_classes)
        self._optimizer = optax.chain(
            optax.add_decayed_weights(protocol.weight_decay, mask=decay_mask),
            optax.sgd(protocol.learning_rates(), protocol.momentum, nesterov=True),
        )
        self.update = jax.jit(self._update)

    def network(self, graph: Graph, *, whole: bool = False) -> Network:
        """Returns the anchor with a candidate in it, in pieces compiled already or whole."""
        groups = self.protocol.num_groups
        if whole:
            return WholeNetwork(self.anchor, self.data.num_classes, graph, num_groups=groups)
        return StitchedNetwork(self.stitched, canonical(graph), num_groups=groups)

    def start(self, graph: Graph, seed: int) -> "AnchorRun":
        """Returns a run before its first step; nothing is compiled for the candidate."""
        return AnchorRun(self, graph, seed)

    def initial_state(self, graph: Graph, seed: int) -> tuple[Tree, Tree, Any]:
        """Returns `params`, `batch_stats` and the state of the optimizer."""
        params = self.stitched.initial_params(seed, self.data.image_shape)
        statistics = initial_statistics(canonical(graph))
        stats = {
            (*path[:-1], name): initial(vector.shape)
            for path, vector in flatten_dict(params).items()
            if path[-1] == "v1"
            for name, initial in statistics.items()
        }
        return params, unflatten_dict(stats), self._optimizer.init(params)

    def _update(self, params: Tree, opt_state: Any, gradients: Tree) -> tuple[Tree, Any]:
        updates, opt_state = self._optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


class StopTraining(Exception):
    """Ends a run that is not worth going on with.

    Attributes:
      hopeless: True if its losses are finite, but show that it learns nothing.
    """

    def __init__(self, message: str, *, hopeless: bool) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class AnchorRun:
    """A candidate in training in one anchor.

    Args:
      trainer: What all candidates share in the anchor.
      graph: The candidate.
      seed: The seed of the initial weights and of the batches.

    Attributes:
      network: Computes the candidate; it may be replaced between calls.
      losses: The loss of every step made, in nats.
    """

    def __init__(self, trainer: AnchorTrainer, graph: Graph, seed: int) -> None:
        self._trainer = trainer
        self.network = trainer.network(graph)
        self.params, self.batch_stats, self._opt_state = trainer.initial_state(graph, seed)
        self._batches = trainer.data.train_batches(seed)
        self.losses: list[float] = []
        # On a CPU nothing is gained by queueing steps; on an accelerator every look waits.
        self._look_every = 1 if jax.default_backend() == "cpu" else 10

    @property
    def num_steps(self) -> int:
        """The number of steps made; those queued behind a loss that is not finite do not count."""
        return len(self.losses)

    def train(self, num_steps: int) -> None:
        """Trains until `num_steps` steps are made in all.

        Raises:
          StopTraining: If a loss is not finite, or an `AbortRule` applies.
        """
        queued: list[jax.Array] = []
        looks = {rule.step for rule in self._trainer.protocol.abort_rules} | {num_steps}
        while (step := self.num_steps + len(queued)) < num_steps:
            queued.append(self._step())
            if len(queued) == self._look_every or step + 1 in looks:
                self._look(jax.device_get(queued))
                queued = []

    def accuracy(self, num_examples: int = 0) -> float:
        """Returns the accuracy in percent on `num_examples` of the evaluation split, 0 for all."""
        sums = []
        for images, labels, mask in self._trainer.data.eval_batches(num_examples):
            logits = self.network.logits(self.params, self.batch_stats, images)
            sums.append(count_hits(logits, labels, mask))
        hits, counts = np.sum(jax.device_get(sums), axis=0)
        return 100 * float(hits) / float(counts)

    def _step(self) -> jax.Array:
        images, labels = next(self._batches)
        loss, gradients, self.batch_stats = self.network.gradients(
            self.params, self.batch_stats, images, labels
        )
        self.params, self._opt_state = self._trainer.update(self.params, self._opt_state, gradients)
        return loss

    def _look(self, losses: list[Any]) -> None:
        for loss in map(float, losses):
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise StopTraining(f"loss {loss} in step {self.num_steps}", hopeless=False)
        for rule in self._trainer.protocol.abort_rules:
            if rule.step == self.num_steps:
                mean = math.fsum(self.losses[-rule.window :]) / rule.window
                if mean > rule.max_loss:
                    raise StopTraining(
                        f"mean loss {mean:.3f} of {rule.window} steps up to {rule.step}",
                        hopeless=True,
                    )


@jax.jit
def count_hits(
    logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Counts the examples of a batch that are hits, and all of them.

    Args:
      logits: `[N, K]`.
      labels: `[N]` integers.
      mask: `[N]`, 1 for an example that counts, 0 for padding.
    """
    return jnp.sum(in_top(logits, labels) * mask), jnp.sum(mask)
