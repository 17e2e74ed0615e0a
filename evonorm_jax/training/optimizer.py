"""Learning rate and optimizer: optax, with the choices that the paper's training fixes.

* The learning rate scales linearly with the global batch (Goyal et al. 2017):
  `learning_rate_per_256 * batch_size / 256`.
* Weight decay is the L2 penalty of the authors' code, added to the gradient before the momentum,
  and reaches `kernel` parameters only: `scale`, `bias`, `v` and the baselines' own vectors are not
  decayed. (The authors' code also decays the bias of the classifier; ours does not.)
* LARS leaves the same parameters out of its trust ratio, as the authors' `skip_list` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import optax

from evonorm_jax.errors import UserError
from evonorm_jax.training.durations import Durations

if TYPE_CHECKING:
    import ml_collections

OPTIMIZERS = ("sgd", "lars", "rmsprop")
SCHEDULES = ("cosine", "step", "constant", "exponential")


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay reaches: those named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def peak_learning_rate(config: ml_collections.ConfigDict, batch_size: int) -> float:
    """The learning rate after the warm-up: linear in the global batch."""
    return config.optimizer.learning_rate_per_256 * batch_size / 256


def learning_rate_schedule(
    config: ml_collections.ConfigDict, durations: Durations, batch_size: int
) -> optax.Schedule:
    """The learning rate as a function of the step, warm-up from 0 included.

    The warm-up rises linearly to the peak; step boundaries are fractions of the whole run and
    count from its start, as in the authors' code.

    Raises:
      UserError: for an unknown schedule, or boundaries that are not increasing fractions.
    """
    schedule = config.schedule
    peak = peak_learning_rate(config, batch_size)
    total, warmup = durations.num_steps, durations.warmup_steps
    if schedule.name == "cosine":
        after = optax.cosine_decay_schedule(peak, total - warmup)
    elif schedule.name == "constant":
        after = optax.constant_schedule(peak)
    elif schedule.name == "step":
        boundaries = tuple(schedule.boundaries)
        if list(boundaries) != sorted(set(boundaries)) or not all(0 < b < 1 for b in boundaries):
            raise UserError(
                f"config.schedule.boundaries={boundaries}: they must be increasing fractions of "
                "the run between 0 and 1, for example (30/90, 60/90, 80/90)."
            )
        steps: dict[int, float] = {}
        for boundary in boundaries:  # in short runs two of them may fall on one step
            step = round(boundary * total) - warmup
            steps[step] = steps.get(step, 1.0) * schedule.decay_factor
        after = optax.piecewise_constant_schedule(peak, steps)
    elif schedule.name == "exponential":
        every = round(schedule.decay_epochs * durations.steps_per_epoch)
        if every < 1:
            raise UserError(
                f"config.schedule.decay_epochs={schedule.decay_epochs} is less than one step; it "
                "must be above 0, for example 2.4."
            )
        rate = schedule.decay_factor
        # Staircase counted from the start of the run, warm-up included, as in the TPU code.
        whole = optax.exponential_decay(peak, every, rate, staircase=True)
        after = lambda step: whole(step + warmup)  # noqa: E731
    else:
        raise UserError(
            f"config.schedule.name={schedule.name!r} is unknown; choose one of "
            f"{', '.join(SCHEDULES)}."
        )
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def create_optimizer(
    config: ml_collections.ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """The optax transformation of `config.optimizer`.

    Raises:
      UserError: for an unknown optimizer.
    """
    c = config.optimizer
    decay = optax.add_decayed_weights(c.weight_decay, mask=decay_mask)
    if c.name == "sgd":
        update = optax.chain(decay, optax.sgd(learning_rate, c.momentum, nesterov=c.nesterov))
    elif c.name == "rmsprop":
        # eps inside the root and a mean square that starts at 1, as TensorFlow's RMSProp.
        rmsprop = optax.rmsprop(
            learning_rate,
            decay=c.rmsprop_decay,
            eps=c.rmsprop_epsilon,
            initial_scale=1.0,
            eps_in_sqrt=True,
            momentum=c.momentum,
            nesterov=c.nesterov,
        )
        update = optax.chain(decay, rmsprop)
    elif c.name == "lars":
        update = optax.lars(
            learning_rate,
            weight_decay=c.weight_decay,
            weight_decay_mask=decay_mask,
            trust_coefficient=c.lars_trust_coefficient,
            trust_ratio_mask=decay_mask,
            momentum=c.momentum,
            nesterov=c.nesterov,
        )
    else:
        raise UserError(
            f"config.optimizer.name={c.name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}."
        )
    if c.gradient_clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(c.gradient_clip_norm), update)
    return update
