"""What a training step reads and returns, and all that a checkpoint must hold."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class TrainState(flax.struct.PyTreeNode):
    """The state of a run after `step` updates.

    Attributes:
      step: int32 scalar, updates made.
      params: trainable variables, float32.
      batch_stats: moving averages of the batch statistics; `{}` for layers that keep none.
      opt_state: of the optax transformation.
      ema: `{"params": ..., "batch_stats": ...}`, their exponential moving averages, or `{}`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def initial_variables(
    model: nn.Module, image_shape: tuple[int, int, int], *, seed: int | jax.Array, use_ema: bool
) -> dict[str, Any]:
    """`params`, `batch_stats` and `ema` before the first step, from the seed.

    Args:
      model: the network.
      image_shape: `(height, width, channels)`.
      seed: of the run; the same values on every process.
      use_ema: whether moving averages are kept.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(seed), images, train=False)
    averaged = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return {**averaged, "ema": averaged if use_ema else {}}


def create_train_state(
    optimizer: optax.GradientTransformation, variables: dict[str, Any]
) -> TrainState:
    """The state before the first step, of `initial_variables`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        **variables,
    )


def evaluation_variables(state: TrainState, *, ema: bool = False) -> dict[str, Any]:
    """The variables to evaluate: the raw ones, or their moving averages."""
    if ema:
        return dict(state.ema)
    return {"params": state.params, "batch_stats": state.batch_stats}
