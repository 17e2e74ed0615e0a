"""One gradient step of one network: micro-batches, the mean over devices, optimizer and averages.

The tasks that train one network on one loss share it. It runs inside a step that
`parallel.DataParallel.parallelize` maps, which gives it the axis `AXIS` to reduce over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from evonorm_jax.training.dropout import dropout_by_position
from evonorm_jax.training.parallel import mean_over_devices, positions
from evonorm_jax.training.state import TrainState, evaluation_variables

#: `loss(variables, examples, key) -> (loss, (collections, metrics))`: the mean loss over the
#: examples, every collection that the network has updated, and further scalars to log. The key is
#: that of the whole step, for `rngs={"dropout": key}`: each example draws its own numbers from it.
Loss = Callable[
    [Mapping[str, Any], Any, jax.Array], tuple[jax.Array, tuple[dict[str, Any], dict[str, Any]]]
]


def step_key(seed: jax.Array | int, step: jax.Array) -> jax.Array:
    """Derives the key of the update after `step` updates; a resumed run has the same keys."""
    return jax.random.fold_in(jax.random.key(seed), step)


def gradient_step(
    state: TrainState,
    loss: Loss,
    examples: Any,
    key: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    accumulation_steps: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update of a state.

    Args:
      state: The state, the same on every device.
      loss: Computes the loss; it gets `params` and the state's collections.
      examples: Arrays of this device's share, `[b, ...]`.
      key: Key for what is random in the network, such as dropout; the same one on every device.
      optimizer: Is given the gradient averaged over all devices.
      ema_decay: Decay of the moving averages; 0 turns them off.
      accumulation_steps: Micro-batches that the update is computed in.

    Returns:
      The next state and metrics, means over the global batch: `loss`, those that `loss` returned,
      and `grad_norm`.
    """
    local = _mean_over_micro_batches(state, loss, examples, key, accumulation_steps)
    metrics, collections, grads = mean_over_devices(local)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        collections={**state.collections, **collections},
        opt_state=opt_state,
    )
    if ema_decay > 0:
        state = state.replace(ema=update_ema(state, ema_decay))
    return state, {**metrics, "grad_norm": optax.tree.norm(grads)}


def _mean_over_micro_batches(
    state: TrainState, loss: Loss, examples: Any, key: jax.Array, accumulation_steps: int
) -> Any:
    """Computes metrics, collections and gradients of this device's share."""

    def loss_of(params: Any, examples: Any) -> Any:
        return loss({"params": params, **state.collections}, examples, key)

    def micro_batch(examples: Any, places: jax.Array) -> Any:
        with dropout_by_position(places):
            (value, (collections, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, examples
            )
        return {"loss": value, **metrics}, collections, grads

    places = positions(len(jax.tree.leaves(examples)[0]))
    if accumulation_steps == 1:
        return micro_batch(examples, places)
    # Every micro-batch starts from the same statistics, so that their mean is what the whole
    # batch would give. Unrolled on CPU, where a convolution inside a loop has one thread.
    splits = jax.tree.map(
        lambda x: x.reshape(accumulation_steps, -1, *x.shape[1:]), (examples, places)
    )

    def add(total: Any, xs: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, micro_batch(*xs)), None

    shapes = jax.eval_shape(micro_batch, *jax.tree.map(lambda x: x[0], splits))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    unroll = jax.default_backend() == "cpu"
    total, _ = jax.lax.scan(add, zeros, splits, unroll=unroll)
    return _like(shapes, jax.tree.map(lambda x: x / accumulation_steps, total))


def _like(before: Any, means: Any) -> Any:
    """Gives means the dtypes that they had before: a collection may count in integers."""
    return jax.tree.map(lambda x, mean: mean.astype(x.dtype), before, means)


def update_ema(state: TrainState, decay: float) -> Any:
    """Moves the averages towards the state's values, faster while the run is young.

    The decay is min(decay, (1 + n) / (10 + n)) after n updates, as in TensorFlow's
    ExponentialMovingAverage, so that short runs are not held at their initial weights.
    """
    n = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + n) / (10 + n))
    variables = evaluation_variables(state)
    return jax.tree.map(
        lambda average, value: keep * average + (1 - keep) * value,
        state.ema,
        {name: variables[name] for name in state.ema},
    )
