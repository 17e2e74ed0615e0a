"""Learning rate and optimizer: optax, with the choices that the paper's training fixes.

* The learning rate scales linearly with the global batch (Goyal et al. 2017):
  `learning_rate_per_256 * batch_size / 256`.
  A recipe whose rate does not depend on the batch sets `learning_rate` instead.
* Weight decay is the L2 penalty of the authors' code, added to the gradient before the momentum,
  and reaches `kernel` parameters only: `scale`, `bias`, `v` and the baselines' own vectors are not
  decayed. (The authors' code also decays the bias of the classifier; ours does not.) AdamW alone
  takes it from the weights instead of the gradient (Loshchilov and Hutter 2019).
* LARS leaves the same parameters out of its trust ratio, as the authors' `skip_list` does.
* Parts of a network may be frozen or learn at another rate, see `parameter_paths.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import optax

from evonorm_jax.errors import UserError
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.parameter_paths import by_path

if TYPE_CHECKING:
    import ml_collections

OPTIMIZERS = ("sgd", "lars", "rmsprop", "adam", "adamw")
SCHEDULES = ("cosine", "step", "constant", "exponential")


def peak_learning_rate(
    optimizer: ml_collections.ConfigDict, batch_size: int, *, name: str = "optimizer"
) -> float:
    """Returns the learning rate after the warm-up.

    Args:
      optimizer: A section such as `config.optimizer`: `learning_rate` holds for any batch,
        `learning_rate_per_256` is linear in it.
      batch_size: Images of the global batch.
      name: What the section is called in the config.

    Raises:
      UserError: Not exactly one of the two is above 0.
    """
    rate, per_256 = optimizer.learning_rate, optimizer.learning_rate_per_256
    if min(rate, per_256) < 0 or (rate > 0) == (per_256 > 0):
        raise UserError(
            f"config.{name}.learning_rate={rate} and learning_rate_per_256={per_256}: exactly "
            "one of them must be above 0; set the other to 0."
        )
    return rate or per_256 * batch_size / 256


def learning_rate_schedule(
    schedule: ml_collections.ConfigDict, peak: float, durations: Durations
) -> optax.Schedule:
    """Makes the learning rate as a function of the step, warm-up from 0 included.

    The warm-up rises linearly to the peak; step boundaries are fractions of the whole run and
    count from its start, as in the authors' code.

    Args:
      schedule: The section `config.schedule`.
      peak: Learning rate after the warm-up.
      durations: Length of the run and of its warm-up.

    Raises:
      UserError: The schedule is unknown, or its boundaries are not increasing fractions.
    """
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
    optimizer: ml_collections.ConfigDict, learning_rate: optax.Schedule, *, name: str = "optimizer"
) -> optax.GradientTransformation:
    """Makes the optax transformation that a section such as `config.optimizer` describes.

    Args:
      optimizer: The section.
      learning_rate: Learning rate by the number of updates made.
      name: What the section is called in the config.

    Raises:
      UserError: The optimizer is unknown, or a rate of a part of the network is no number above 0.
        When it is initialised: a pattern of paths does not fit the network.
    """
    c = optimizer
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
    elif c.name in ("adam", "adamw"):
        moments = {"b1": c.adam_beta1, "b2": c.adam_beta2, "eps": c.adam_epsilon}
        if c.name == "adam":
            update = optax.chain(decay, optax.adam(learning_rate, **moments))
        else:
            update = optax.adamw(
                learning_rate, **moments, weight_decay=c.weight_decay, mask=decay_mask
            )
    else:
        raise UserError(
            f"config.{name}.name={c.name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}."
        )
    if c.gradient_clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(c.gradient_clip_norm), update)
    return by_path(c, update, name=name)
