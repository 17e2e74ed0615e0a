"""One step of two players: several updates of the discriminator, then one of the generator.

Every random number comes from the key of the step, the update within it, and the position in the
global batch, so that noise is the same on any number of devices and no host draws another's.

The generator draws the fake images of the discriminator's updates in training mode, so that its
statistics and singular vectors move in each of them, as in the first author's PyTorch code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from evonorm_jax.data import Pipeline
from evonorm_jax.gan import Gan
from evonorm_jax.gan.losses import (
    discriminator_loss,
    generate,
    generator_loss,
    orthogonal_penalty,
)
from evonorm_jax.gan.sampling import draw_inputs
from evonorm_jax.training.parallel import AXIS, keys_at, positions
from evonorm_jax.training.state import TrainState

PLAYERS = ("generator", "discriminator")


def variables_of(state: TrainState, player: str) -> dict[str, Any]:
    """Returns the variables of one player, by the names of their collections."""
    collections = {"params": state.params, **state.collections}
    return {name: players[player] for name, players in collections.items() if player in players}


def make_train_step(
    gan: Gan,
    optimizers: Mapping[str, optax.GradientTransformation],
    pipeline: Pipeline,
    *,
    per_device: int,
    discriminator_steps: int,
    ema_decay: float = 0.0,
    ema_start_steps: int = 0,
    orthogonal_regularization: float = 0.0,
) -> Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, resident, batch, key) -> (state, metrics)`.

    Args:
      gan: Both players.
      optimizers: One for each of `PLAYERS`, applied to gradients averaged over all devices.
      pipeline: Turns a batch into images from -1 to 1.
      per_device: Images of a device's share in one update; a batch has `discriminator_steps` times
        as many.
      discriminator_steps: Updates of the discriminator.
      ema_decay: Decay of the averages of the generator's parameters; 0 turns them off.
      ema_start_steps: The averages are the parameters themselves for so many steps.
      orthogonal_regularization: Weight of `orthogonal_penalty` in the generator's loss.

    Returns:
      The step. Its metrics are means over the global batch and over the discriminator's updates.
    """
    update_discriminator = _discriminator_update(gan, optimizers["discriminator"])
    update_generator = _generator_update(gan, optimizers["generator"], orthogonal_regularization)

    def step(
        state: TrainState, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        data_key, *keys = jax.random.split(key, discriminator_steps + 2)
        places = positions(per_device * discriminator_steps)
        real = pipeline.train_examples(resident, batch, keys_at(data_key, places))
        opt_state, losses = dict(state.opt_state), []
        generator, discriminator = (variables_of(state, player) for player in PLAYERS)
        # Unrolled: in a loop XLA's convolutions have a single thread on CPU.
        for k in range(discriminator_steps):
            z, labels = draw_inputs(keys_at(keys[k], positions(per_device)), gan)
            images, updates = generate(gan, generator, z, labels)
            generator = {**generator, **updates}
            part = real["image"][k::discriminator_steps], real["label"][k::discriminator_steps]
            discriminator, opt_state["discriminator"], metrics = update_discriminator(
                discriminator, opt_state["discriminator"], part, (images, labels)
            )
            losses.append(metrics)
        z, labels = draw_inputs(keys_at(keys[-1], positions(per_device)), gan)
        generator, opt_state["generator"], metrics = update_generator(
            generator, opt_state["generator"], discriminator, z, labels
        )
        metrics |= jax.tree.map(lambda *values: sum(values) / discriminator_steps, *losses)
        for player, network, variables in (
            ("generator", gan.generator, generator),
            ("discriminator", gan.discriminator, discriminator),
        ):
            metrics[f"{player}_sigma"] = network.largest_singular_value(
                variables["params"], variables["spectral"]
            )
        state = _next_state(state, generator, discriminator, opt_state)
        if ema_decay > 0:
            state = state.replace(ema=_averages(state, ema_decay, ema_start_steps))
        return state, metrics

    return step


def _discriminator_update(gan: Gan, optimizer: optax.GradientTransformation) -> Any:
    def update(
        variables: dict[str, Any], opt_state: Any, real: Any, fake: Any
    ) -> tuple[dict[str, Any], Any, dict[str, jax.Array]]:
        def loss_of(params: Any) -> Any:
            result = discriminator_loss(gan, {**variables, "params": params}, real, fake)
            return result.loss, result

        grads, result = jax.grad(loss_of, has_aux=True)(variables["params"])
        metrics = {
            "discriminator_loss": result.loss,
            "loss_real": result.loss_real,
            "loss_fake": result.loss_fake,
            "score_real": result.score_real,
            "score_fake": result.score_fake,
        }
        grads, metrics = jax.lax.pmean((grads, metrics), AXIS)
        params, opt_state = _apply(optimizer, grads, opt_state, variables["params"])
        metrics["discriminator_grad_norm"] = optax.tree.norm(grads)
        return {**variables, **result.updates, "params": params}, opt_state, metrics

    return update


def _generator_update(
    gan: Gan, optimizer: optax.GradientTransformation, orthogonal_regularization: float
) -> Any:
    def update(
        variables: dict[str, Any],
        opt_state: Any,
        discriminator: dict[str, Any],
        z: jax.Array,
        labels: jax.Array,
    ) -> tuple[dict[str, Any], Any, dict[str, jax.Array]]:
        def loss_of(params: Any) -> Any:
            loss, updates = generator_loss(
                gan, {**variables, "params": params}, discriminator, z, labels
            )
            penalty = jnp.zeros(())
            if orthogonal_regularization:
                penalty = orthogonal_regularization * orthogonal_penalty(params)
            return loss + penalty, (loss, updates)

        grads, (loss, updates) = jax.grad(loss_of, has_aux=True)(variables["params"])
        grads, loss = jax.lax.pmean((grads, loss), AXIS)
        params, opt_state = _apply(optimizer, grads, opt_state, variables["params"])
        metrics = {"generator_loss": loss, "generator_grad_norm": optax.tree.norm(grads)}
        return {**variables, **updates, "params": params}, opt_state, metrics

    return update


def _apply(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _next_state(
    state: TrainState, generator: dict[str, Any], discriminator: dict[str, Any], opt_state: Any
) -> TrainState:
    """Puts both players back; what the devices have apart, such as statistics, is averaged."""
    players = {"generator": generator, "discriminator": discriminator}
    collections = {
        name: {player: players[player][name] for player in there}
        for name, there in state.collections.items()
    }
    return state.replace(
        step=state.step + 1,
        params={player: variables["params"] for player, variables in players.items()},
        collections=jax.lax.pmean(collections, AXIS),
        opt_state=opt_state,
    )


def _averages(state: TrainState, decay: float, start_steps: int) -> Any:
    """Moves the averages towards the parameters; until `start_steps` they are the parameters."""
    keep = jnp.where(state.step <= start_steps, 0.0, decay)
    return jax.tree.map(
        lambda average, value: keep * average + (1 - keep) * value,
        state.ema,
        {"params": {"generator": state.params["generator"]}},
    )
