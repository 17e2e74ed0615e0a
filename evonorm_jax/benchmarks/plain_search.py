"""A candidate judged the plain way: the rival of the search engine.

A network is built with the candidate's layers, its whole training step is compiled, 100 steps are
made, its evaluation is compiled, and so on with each anchor; the accuracies decide. Networks, data,
initial weights and evaluation are those of the engine, and drawing the weights is not timed; what
differs is what this file does, written as any training script is.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import Graph, X
from evonorm_jax.graphs.layer import BatchGraphLayer, BatchGroupGraphLayer
from evonorm_jax.models.classification import in_top
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.trainer import AnchorTrainer

#: Returns seconds. Of all threads of this process on a CPU, where others may share its cores.
Clock = Callable[[], float]


def clock() -> Clock:
    """Processor time on a CPU; on an accelerator, which it does not see, the time on the wall."""
    return time.process_time if jax.default_backend() == "cpu" else time.perf_counter


@dataclasses.dataclass(frozen=True)
class PlainVerdict:
    """What the plain way found of a candidate.

    Attributes:
      passed: Whether all anchors let it pass.
      accuracies: The accuracies in percent, by anchor.
      seconds: The time that it took; see `clock`.
      seconds_watched: The time that it would have taken, had a candidate that does not see x been
        turned away, and had a loss that is not finite ended all training.
      seconds_thrifty: Likewise, had also the first anchor that rejects it ended all training.
    """

    passed: bool
    accuracies: tuple[float, ...]
    seconds: float
    seconds_watched: float
    seconds_thrifty: float


def judge(
    trainers: Sequence[AnchorTrainer], protocol: ProxyProtocol, graph: Graph, seed: int
) -> PlainVerdict:
    """Trains the candidate on every anchor.

    Args:
      trainers: The trainers of the anchors, for the networks, the data and the initial weights.
      protocol: Says how many steps, which optimizer, and which accuracy passes.
      graph: The candidate.
      seed: The seed, as the engine takes it.
    """
    graph = canonical(graph)
    accuracies = []
    seconds = watched = thrifty = 0.0
    watching = saving = X in graph.effective
    for trainer in trainers:
        accuracy, spent, until_nonfinite = _train(trainer, protocol, graph, seed)
        accuracies.append(accuracy)
        seconds += spent
        needed = spent if until_nonfinite is None else until_nonfinite
        watched += needed * watching
        thrifty += needed * saving
        watching = watching and until_nonfinite is None
        saving = saving and watching and accuracy >= protocol.quality_accuracy
    passed = min(accuracies) >= protocol.quality_accuracy
    return PlainVerdict(passed, tuple(accuracies), seconds, watched, thrifty)


def _train(
    trainer: AnchorTrainer, protocol: ProxyProtocol, graph: Graph, seed: int
) -> tuple[float, float, float | None]:
    """Accuracy, seconds, and seconds until the first loss that is not finite, if there is one."""
    data = trainer.data
    params, batch_stats, _ = trainer.initial_state(graph, seed)
    now = clock()
    start = now()
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
        variables = {"params": params, "batch_stats": batch_stats}
        logits: Any = model.apply(variables, images, train=False)
        return jnp.sum(in_top(logits, labels) * mask), jnp.sum(mask)

    state = params, batch_stats, optimizer.init(params)
    until_nonfinite = None
    for _, batch in zip(range(protocol.quality_steps), data.train_batches(seed), strict=False):
        state, loss = step(state, *batch)
        if until_nonfinite is None and not math.isfinite(float(loss)):
            until_nonfinite = now() - start
    counted = [count(*state[:2], *batch) for batch in data.eval_batches(protocol.quality_examples)]
    hits, examples = np.sum(jax.device_get(counted), axis=0)
    # In Python's numbers, as the engine: 20 % must be 20 %, not the float32 next to it.
    return 100 * float(hits) / float(examples), now() - start, until_nonfinite
