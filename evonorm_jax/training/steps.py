"""The training step and the evaluation step: pure functions of one device's share.

Both are mapped by `parallel.DataParallel.parallelize`, which gives them the axis `AXIS` to reduce
over. All randomness derives from (seed, step, position in the global batch), so that a batch is
augmented and mixed the same on one device as on eight, and again after a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from evonorm_jax.data import Pipeline
from evonorm_jax.training.metrics import classification_sums, cross_entropy
from evonorm_jax.training.parallel import AXIS, mean_over_devices
from evonorm_jax.training.state import TrainState, evaluation_variables

Step = Callable[[TrainState, Any, Any], Any]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    pipeline: Pipeline,
    *,
    seed: int | jax.Array,
    per_device: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    ema_decay: float = 0.0,
    accumulation_steps: int = 1,
) -> Step:
    """Builds `step(state, resident, batch) -> (state, metrics)`.

    Args:
      model: called as `model.apply(variables, images, train=True, ...)`.
      optimizer: applied to the gradient averaged over all devices.
      pipeline: turns a batch into normalised, augmented images inside the step.
      seed: of the run.
      per_device: images of a device's share.
      label_smoothing: probability spread evenly over all classes.
      mixup_alpha: of the Beta distribution of mixup; 0 turns it off.
      ema_decay: of the averages of parameters and statistics; 0 turns them off.
      accumulation_steps: micro-batches that one update is computed in.

    Returns:
      The step. Its metrics are means over the global batch: `loss` (nats), `top1`, `grad_norm`.
    """

    def loss_fn(
        params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss = jnp.mean(cross_entropy(logits, targets))
        hits = jnp.argmax(logits, -1) == jnp.argmax(targets, -1)
        return loss, (updates.get("batch_stats", {}), jnp.mean(hits.astype(jnp.float32)))

    def gradients(state: TrainState, images: jax.Array, targets: jax.Array, key: jax.Array) -> Any:
        """Mean loss, gradients, statistics and accuracy of this device's share."""
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

        def micro_batch(split: tuple[jax.Array, jax.Array], key: jax.Array) -> Any:
            (loss, (stats, top1)), grads = value_and_grad(
                state.params, state.batch_stats, *split, key
            )
            return loss, top1, stats, grads

        if accumulation_steps == 1:
            return micro_batch((images, targets), key)
        # Every micro-batch starts from the same statistics, so that their mean is what the whole
        # batch would give. Unrolled on CPU, where a convolution inside a loop has one thread.
        splits = jax.tree.map(
            lambda x: x.reshape(accumulation_steps, -1, *x.shape[1:]), (images, targets)
        )
        keys = jax.random.split(key, accumulation_steps)

        def add(total: Any, xs: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, micro_batch(*xs)), None

        shapes = jax.eval_shape(micro_batch, *jax.tree.map(lambda x: x[0], (splits, keys)))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        unroll = jax.default_backend() == "cpu"
        total, _ = jax.lax.scan(add, zeros, (splits, keys), unroll=unroll)
        return jax.tree.map(lambda x: x / accumulation_steps, total)

    def step(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)
        augment_key, mixup_key, dropout_key = jax.random.split(step_key, 3)
        device = jax.lax.axis_index(AXIS)
        positions = device * per_device + jnp.arange(per_device)
        images, labels = pipeline.train_examples(
            resident, batch, jax.vmap(jax.random.fold_in, (None, 0))(augment_key, positions)
        )
        targets = jax.nn.one_hot(labels, pipeline.num_classes)
        if mixup_alpha > 0:
            images, targets = mixup(mixup_key, images, targets, positions, mixup_alpha)
        if label_smoothing > 0:
            targets = optax.smooth_labels(targets, label_smoothing)

        dropout_key = jax.random.fold_in(dropout_key, device)
        local = gradients(state, images, targets, dropout_key)
        loss, top1, batch_stats, grads = mean_over_devices(local)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema_decay > 0:
            state = state.replace(ema=update_ema(state, ema_decay))
        return state, {"loss": loss, "top1": top1, "grad_norm": optax.tree.norm(grads)}

    return step


def update_ema(state: TrainState, decay: float) -> Any:
    """Moves the averages towards the state's values, faster while the run is young.

    The decay is min(decay, (1 + n) / (10 + n)) after n updates, as in TensorFlow's
    ExponentialMovingAverage, so that short runs are not held at their initial weights.
    """
    n = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(
        lambda average, value: keep * average + (1 - keep) * value,
        state.ema,
        evaluation_variables(state),
    )


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, positions: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its neighbour in the batch (Zhang et al. 2018).

    Neighbours (2i and 2i + 1) lie on one device whatever the number of devices; batches are random
    orders, so a neighbour is a random partner.

    Args:
      key: of the step, the same on every device.
      images: `[N, H, W, C]`, N even.
      targets: `[N, K]` probabilities.
      positions: `[N]`, of the examples in the global batch.
      alpha: both parameters of the Beta distribution.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
    own = jax.vmap(lambda k: jax.random.beta(k, alpha, alpha))(keys)

    def mix(x: jax.Array) -> jax.Array:
        partner = x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
        weight = own.reshape(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * partner

    return mix(images), mix(targets)


def make_eval_step(model: nn.Module, pipeline: Pipeline, *, ema: bool = False) -> Step:
    """Builds `step(state, resident, batch) -> sums` over the examples of the global batch."""

    def step(state: TrainState, resident: Any, batch: Any) -> dict[str, jax.Array]:
        images, labels, mask = pipeline.eval_examples(resident, batch)
        variables = evaluation_variables(state, ema=ema)
        logits = cast(jax.Array, model.apply(variables, images, train=False))
        return jax.lax.psum(classification_sums(logits, labels, mask), AXIS)

    return step
