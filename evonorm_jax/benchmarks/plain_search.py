"""A candidate judged the plain way: the rival of the search engine.

A network is built with the candidate's layers, its whole training step is compiled, 100 steps are
made, its evaluation is compiled, and the accuracy decides; then the next anchor, until one rejects.
Networks, data, initial weights and evaluation are those of the engine, drawing the weights is even
free; what differs is what this file does, written as any training script is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from evonorm_jax.search.canonical import canonical
from evonorm_jax.search.engine import Engine
from evonorm_jax.search.graph import Graph, X
from evonorm_jax.search.layer import BatchGraphLayer, BatchGroupGraphLayer
from evonorm_jax.training.optimizer import decay_mask


@dataclasses.dataclass(frozen=True)
class PlainVerdict:
    """What the plain way found of a candidate.

    Attributes:
      passed: whether all anchors let it pass.
      accuracies: in percent, of each anchor that was trained.
      first_nonfinite: step of the first loss that was not finite, of each such anchor; else None.
      seconds: that it took.
      seconds_watched: that it would have taken, had training ended at such a loss, and had a
        candidate that does not see x been turned away.
    """

    passed: bool
    accuracies: tuple[float, ...]
    first_nonfinite: tuple[int | None, ...]
    seconds: float
    seconds_watched: float


def judge(engine: Engine, graph: Graph, seed: int) -> PlainVerdict:
    """Trains the candidate on one anchor after the other."""
    accuracies, nonfinite = [], []
    seconds = watched = 0.0
    ended = X not in graph.effective  # for the watched way
    passed = True
    for trainer in engine.trainers:
        accuracy, first, spent, until_nonfinite = _train(engine, trainer, canonical(graph), seed)
        accuracies.append(accuracy)
        nonfinite.append(first)
        seconds += spent
        if not ended:
            watched += spent if first is None else until_nonfinite
            ended = first is not None
        if accuracy < engine.protocol.quality_accuracy:
            passed = False
            break
    return PlainVerdict(passed, tuple(accuracies), tuple(nonfinite), seconds, watched)


def _train(
    engine: Engine, trainer: Any, graph: Graph, seed: int
) -> tuple[float, int | None, float, float]:
    """Accuracy, step of the first loss that is no number, seconds, seconds until that step."""
    protocol, data = engine.protocol, engine.data
    params = trainer.stitched.initial_params(seed, data.image_shape)
    start = time.perf_counter()
    # Not `graph_layer`, which refuses candidates that do not see x.
    by_group = any(primitive.index_set == "whcg" for primitive in graph.primitives())
    layer = functools.partial(BatchGroupGraphLayer if by_group else BatchGraphLayer, graph=graph)
    if by_group:
        layer.keywords["num_groups"] = protocol.num_groups
    model = trainer.anchor.create(data.num_classes, layer)
    optimizer = optax.chain(
        optax.add_decayed_weights(protocol.weight_decay, mask=decay_mask),
        optax.sgd(protocol.learning_rates(), protocol.momentum, nesterov=True),
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, batch_stats, opt_state = state

        def loss_of(params: Any) -> Any:
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), updates.get("batch_stats", {})

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    @jax.jit
    def count(params: Any, batch_stats: Any, images: Any, labels: Any, mask: Any) -> Any:
        logits = model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        hits = (jnp.argmax(logits, -1) == labels) & jnp.isfinite(logits).all(-1)
        return jnp.sum(hits * mask), jnp.sum(mask)

    _, batch_stats, _ = trainer.initial_state(graph, seed)
    params = jax.tree.map(jnp.copy, params)  # donated
    state = params, batch_stats, optimizer.init(params)
    batches = data.train_batches(seed)
    first_nonfinite, until_nonfinite = None, 0.0
    for number in range(1, protocol.quality_steps + 1):
        state, loss = step(state, *next(batches))
        if first_nonfinite is None and not math.isfinite(float(loss)):
            first_nonfinite, until_nonfinite = number, time.perf_counter() - start
    counted = [count(*state[:2], *batch) for batch in data.eval_batches(protocol.quality_examples)]
    hits, examples = np.sum(jax.device_get(counted), axis=0)
    seconds = time.perf_counter() - start
    return 100 * float(hits / examples), first_nonfinite, seconds, until_nonfinite
