"""Training of one candidate in one anchor network, and what all candidates share of it.

>>> from evonorm_jax.data import dataset_config
>>> protocol = Protocol(crop_size=0, batch_size=8)
>>> data = Data(dataset_config("digits", "embedded"), protocol)
>>> images, labels = next(data.train_batches(seed=0))
>>> images.shape, data.num_classes
((8, 8, 8, 1), 10)
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.data import create_pipeline
from evonorm_jax.data.pipeline import Hosts, train_positions
from evonorm_jax.errors import UserError
from evonorm_jax.models.classification import in_top
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.search.anchors import Anchor
from evonorm_jax.search.canonical import canonical
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.network import Network, Tree, WholeNetwork
from evonorm_jax.search.nodewise import initial_statistics
from evonorm_jax.search.protocol import Protocol
from evonorm_jax.search.stitched import StitchedNetwork, stitched_anchor


class Data:
    """A data set in device memory, cut into the batches of a protocol.

    Attributes:
      num_classes: labels are 0 ... num_classes - 1.
      image_shape: `(height, width, channels)` in training.

    Raises:
      UserError: the configuration is of a streamed set, or does not suit the protocol.
    """

    def __init__(self, config: ml_collections.ConfigDict, protocol: Protocol) -> None:
        config = ml_collections.ConfigDict(config)
        if not config.in_memory:
            raise UserError(
                f"the search trains on images in device memory, and '{config.name}' is streamed: "
                "take CIFAR-10, or set in_memory=True"
            )
        if protocol.crop_size:
            config.train_crop_size, config.pad = protocol.crop_size, 0
        # The order of the examples comes from the seed of each candidate, not from here.
        self._pipeline = create_pipeline(config, seed=0)
        self.num_classes = self._pipeline.num_classes
        self.image_shape = self._pipeline.image_shape
        self._batch_size = protocol.batch_size
        self._eval_batch_size = min(protocol.eval_batch_size, self._pipeline.num_eval_examples)
        self._resident = jax.device_put(self._pipeline.resident())
        # Files are often sorted by class; a part of the split must mix them.
        self._eval_order = np.random.default_rng(0).permutation(self._pipeline.num_eval_examples)

    def train_batches(self, seed: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Augmented images and labels, without end; the same for the same seed."""
        positions = train_positions(
            self._pipeline.num_train_examples,
            seed,
            start_step=0,
            batch_size=self._batch_size,
            hosts=Hosts(),
        )
        for step, (indices, _) in enumerate(positions):
            yield self._train_batch(self._resident, indices.astype(np.int32), seed, step)

    def eval_batches(self, num_examples: int) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """Images, labels and mask of the first of the mixed evaluation split; 0 takes all."""
        order = self._eval_order[: num_examples or None]
        size = self._eval_batch_size
        for first in range(0, len(order), size):
            indices = np.zeros(size, np.int32)
            part = order[first : first + size]
            indices[: len(part)] = part
            yield self._eval_batch(self._resident, indices, len(part))

    @functools.partial(jax.jit, static_argnums=0)
    def _train_batch(self, resident: Any, index: Any, seed: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), step)
        keys = jax.random.split(key, len(index))
        examples = self._pipeline.train_examples(resident, {"index": index}, keys)
        return examples["image"], examples["label"]

    @functools.partial(jax.jit, static_argnums=0)
    def _eval_batch(self, resident: Any, index: Any, count: Any) -> Any:
        mask = jnp.arange(len(index)) < count
        examples = self._pipeline.eval_examples(resident, {"index": index, "mask": mask})
        return examples["image"], examples["label"], examples["mask"]


class AnchorTrainer:
    """What the candidates share in one anchor: initial weights, update, segments.

    Args:
      anchor: the network.
      data: what it is trained on.
      protocol: how.
    """

    def __init__(self, anchor: Anchor, data: Data, protocol: Protocol) -> None:
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
        """The anchor with a candidate in it: in pieces that are compiled already, or whole."""
        groups = self.protocol.num_groups
        if whole:
            return WholeNetwork(self.anchor, self.data.num_classes, graph, num_groups=groups)
        return StitchedNetwork(self.stitched, canonical(graph), num_groups=groups)

    def start(self, graph: Graph, seed: int) -> "Run":
        """A run at its first step; nothing is compiled for the candidate."""
        return Run(self, graph, seed)

    def initial_state(self, graph: Graph, seed: int) -> tuple[Tree, Tree, Any]:
        """`params`, `batch_stats` and the state of the optimizer."""
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
    """A run that is not worth going on with.

    Attributes:
      hopeless: whether its losses are finite, but show that it learns nothing.
    """

    def __init__(self, message: str, *, hopeless: bool) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class Run:
    """A candidate in training.

    Attributes:
      network: computes it; may be replaced between calls.
      losses: in nats, of every step made.
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
        """Steps made; those that were queued behind a loss that is not finite do not count."""
        return len(self.losses)

    def train(self, num_steps: int) -> None:
        """Goes on until `num_steps` steps are made in all.

        Raises:
          StopTraining: a loss is not finite, or an `AbortRule` applies.
        """
        queued: list[jax.Array] = []
        looks = {rule.step for rule in self._trainer.protocol.abort_rules} | {num_steps}
        while (step := self.num_steps + len(queued)) < num_steps:
            queued.append(self._step())
            if len(queued) == self._look_every or step + 1 in looks:
                self._look(jax.device_get(queued))
                queued = []

    def accuracy(self, num_examples: int = 0) -> float:
        """Percent of the evaluation split, or of so many of its examples."""
        sums = []
        for images, labels, mask in self._trainer.data.eval_batches(num_examples):
            logits = self.network.logits(self.params, self.batch_stats, images)
            sums.append(_hits(logits, labels, mask))
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
def _hits(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.sum(in_top(logits, labels) * mask), jnp.sum(mask)
