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


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    use_ema: bool,
) -> TrainState:
    """Initialises a run from its seed; the same values on every process."""

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
        params = variables["params"]
        batch_stats = variables.get("batch_stats", {})
        # Copies: the averages and their sources must not share buffers that a step donates.
        ema = {"params": params, "batch_stats": batch_stats} if use_ema else {}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, ema),
        )

    # Drawing each kernel is code of its own, which XLA:CPU optimises for longer (11.5 s for a
    # ResNet-20 on a busy machine) than it takes to run unoptimised (1.9 s, compilation included).
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, compiler_options=options)(jax.random.key(seed))


def evaluation_variables(state: TrainState, *, ema: bool = False) -> dict[str, Any]:
    """The variables to evaluate: the raw ones, or their moving averages."""
    if ema:
        return dict(state.ema)
    return {"params": state.params, "batch_stats": state.batch_stats}
