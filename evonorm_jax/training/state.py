"""What a training step reads and returns, and all that a checkpoint must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

#: Of these, runs with `ema_decay` keep moving averages. Other collections, such as the singular
#: vectors of spectral norms, belong to the newest weights and mean nothing when averaged.
AVERAGED = ("params", "batch_stats")


class TrainState(flax.struct.PyTreeNode):
    """The state of a run after `step` updates.

    Attributes:
      step: Updates made, an int32 scalar.
      params: Trainable variables, float32.
      collections: Every other collection of the network by its name, such as `batch_stats`.
      opt_state: State of the optimizer; `()` in a state that is only evaluated.
      ema: Exponential moving averages of `params` and `batch_stats`, by these names; or `{}`.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    ema: Any


def num_parameters(params: Any) -> int:
    """Counts the numbers that are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def initial_variables(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    seed: int | jax.Array,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Draws all variables of an image classifier from a seed, by the names of their collections.

    Args:
      model: The network.
      image_shape: `(height, width, channels)`.
      seed: Seed of the run; it gives the same values on every process.
      weights: Modules of collections that take the place of drawn ones.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(seed), images, train=False)
    return replace_modules(variables, weights or {})


def replace_modules(variables: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Puts given modules of collections in the place of drawn ones."""
    return {name: {**drawn, **weights.get(name, {})} for name, drawn in variables.items()}


def create_train_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation | None,
    *,
    use_ema: bool = False,
) -> TrainState:
    """Makes the state before the first step.

    Args:
      variables: The network's variables, by the names of their collections.
      optimizer: What updates `params`; None for a state that is only evaluated.
      use_ema: Whether moving averages are kept.
    """
    averaged = {name: variables[name] for name in AVERAGED if name in variables}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        collections={name: tree for name, tree in variables.items() if name != "params"},
        opt_state=() if optimizer is None else optimizer.init(variables["params"]),
        ema=averaged if use_ema else {},
    )


def evaluation_variables(state: TrainState, *, ema: bool = False) -> dict[str, Any]:
    """Returns the variables to evaluate: the newest ones, or their averages where there are any."""
    return {"params": state.params, **state.collections, **(state.ema if ema else {})}
