"""A candidate judged the plain way: the rival of the search engine.

A network is built with the candidate's layers, its whole training step is compiled, 100 steps are
made, its evaluation is compiled, and so on with each anchor; the accuracies decide. Networks, data,
initial weights and evaluation are those of the engine, and drawing the weights is not timed; what
differs is the work of this file, which is written as any training script is.
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
    """Returns a clock of processor time on a CPU, and of wall time on an accelerator.

    Processor time does not include the time in which an accelerator computes.
    """
    return time.process_time if jax.default_backend() == "cpu" else time.perf_counter


@dataclasses.dataclass(frozen=True)
class PlainVerdict:
    """What the plain way found out about a candidate.

    Attributes:
      passed: Whether the candidate passes on all anchors.
      accuracies: Accuracies in percent, one for each anchor in order.
      seconds: Seconds that all training and evaluation took, by `clock`.
      seconds_watched: Seconds that it would have taken, if candidates that do not see x were turned
        away and a loss that is not finite ended all training.
      seconds_thrifty: Seconds that it would have taken, if in addition the first anchor that
        rejects the candidate ended all training.
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
      trainers: Trainers of the anchors, which give the networks, the data and the initial weights.
      protocol: Protocol with the number of steps, the optimizer and the accuracy that passes.
      graph: Graph of the candidate.
      seed: Seed of initial weights and batches, as the engine takes it.
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
    """Trains the candidate on one anchor.

    Returns:
      The accuracy in percent, the seconds, and the seconds until the first loss that is not finite;
      the last is None where all losses are finite.
    """
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
