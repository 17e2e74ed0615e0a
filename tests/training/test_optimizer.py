import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.models.weight_decay import decay_mask
from evonorm_jax.norm_act import norm_act_names
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    peak_learning_rate,
)

DURATIONS = Durations(steps_per_epoch=10, num_steps=900, warmup_steps=50, eval_every_steps=10)
PARAMS = {
    "conv": {"kernel": np.array([1.0, -2.0], np.float32)},
    "norm": {"scale": np.array([3.0], np.float32), "v": np.array([1.0], np.float32)},
}
GRADS = {
    "conv": {"kernel": np.array([0.5, 0.25], np.float32)},
    "norm": {"scale": np.array([0.1], np.float32), "v": np.array([-0.2], np.float32)},
}


def schedule_of(config, name, **fields):
    config.schedule.name = name
    config.schedule.update(fields)
    return learning_rate_schedule(config.schedule, peak_of(config), DURATIONS)


def peak_of(config, batch_size=1024):
    return peak_learning_rate(config.optimizer, batch_size)


def test_learning_rate_scales_with_the_batch(config):
    config.optimizer.learning_rate_per_256 = 0.1
    peak = schedule_of(config, "constant")(500)
    assert peak == pytest.approx(0.4)
    half = learning_rate_schedule(config.schedule, peak_of(config, 512), DURATIONS)(500)
    assert half == pytest.approx(0.2)


def test_a_learning_rate_may_hold_for_any_batch(config):
    config.optimizer.learning_rate, config.optimizer.learning_rate_per_256 = 2e-4, 0.0
    assert peak_of(config, 1024) == peak_of(config, 64) == 2e-4


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.1, 0.1), (-0.1, 0.0), (0.1, -0.1)])
def test_exactly_one_learning_rate_is_set(config, rates):
    config.optimizer.learning_rate, config.optimizer.learning_rate_per_256 = rates
    with pytest.raises(UserError, match="exactly one of them must be above 0"):
        peak_of(config)


def test_warmup_is_linear_from_zero(config):
    config.optimizer.learning_rate_per_256 = 0.1
    rate = schedule_of(config, "constant")
    assert [float(rate(s)) for s in (0, 25, 50)] == pytest.approx([0, 0.2, 0.4])


def test_step_boundaries_count_from_the_start_of_the_run(config):
    config.optimizer.learning_rate_per_256 = 0.1
    rate = schedule_of(config, "step", boundaries=(1 / 3, 2 / 3, 8 / 9), decay_factor=0.1)
    rates = [float(rate(s)) for s in (299, 301, 599, 601, 799, 801)]
    assert rates == pytest.approx([0.4, 0.04, 0.04, 0.004, 0.004, 0.0004])


def test_boundaries_on_one_step_decay_twice(config):
    config.optimizer.learning_rate_per_256 = 0.1
    rate = schedule_of(config, "step", boundaries=(0.5, 0.5001), decay_factor=0.1)
    assert float(rate(460)) == pytest.approx(0.004)


def test_cosine_ends_at_zero(config):
    config.optimizer.learning_rate_per_256 = 0.1
    rate = schedule_of(config, "cosine")
    assert float(rate(475)) == pytest.approx(0.2)  # half way between warm-up and end
    assert float(rate(900)) == pytest.approx(0, abs=1e-7)


def test_exponential_is_a_staircase_of_epochs(config):
    config.optimizer.learning_rate_per_256 = 0.1
    rate = schedule_of(config, "exponential", decay_epochs=2.4, decay_factor=0.97)
    # 24 steps a stair, counted from step 0: step 100 stands on the fifth (index 4).
    assert float(rate(100)) == pytest.approx(0.4 * 0.97**4)
    assert float(rate(119)) == pytest.approx(0.4 * 0.97**4)
    assert float(rate(120)) == pytest.approx(0.4 * 0.97**5)


@pytest.mark.parametrize("layer", norm_act_names())
def test_only_kernels_are_decayed(layer):
    model = create_model("cifar_resnet20", 10, norm_act=layer, depth=8, num_filters=8)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    decayed = [
        "/".join(k.key for k in path)
        for path, yes in jax.tree_util.tree_leaves_with_path(decay_mask(params))
        if yes
    ]
    assert decayed
    assert all(name.endswith("/kernel") for name in decayed)
    # stem, 3 blocks of 2 convolutions, 2 projections, classifier
    assert len(decayed) == 1 + 6 + 2 + 1


def updates(config, steps):
    optimizer = create_optimizer(config.optimizer, lambda step: 0.1)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        change, state = optimizer.update(GRADS, state, params)
        params = jax.tree.map(lambda p, c: np.asarray(p + c), params, change)
    return params


def by_hand(rule, steps, weight_decay):
    """Applies `rule(gradient, memory) -> (change, memory)` to each parameter in float64."""

    def run(path, p, g):
        memory = None
        for _ in range(steps):
            decay = weight_decay if path[-1].key == "kernel" else 0.0
            change, memory = rule(g.astype(np.float64) + decay * p, memory)
            p = p - change
        return p

    wide = jax.tree.map(lambda x: x.astype(np.float64), PARAMS)
    return jax.tree_util.tree_map_with_path(run, wide, GRADS)


def assert_close(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-6), actual, expected)


def test_sgd_is_nesterov_momentum_over_the_l2_gradient(config):
    config.optimizer.update({"name": "sgd", "nesterov": True, "weight_decay": 0.01})

    def rule(g, velocity):
        velocity = g if velocity is None else 0.9 * velocity + g
        return 0.1 * (g + 0.9 * velocity), velocity

    assert_close(updates(config, 3), by_hand(rule, 3, 0.01))


def test_rmsprop_is_that_of_tensorflow(config):
    config.optimizer.update({"name": "rmsprop", "nesterov": False, "weight_decay": 0.01})
    config.optimizer.update({"rmsprop_decay": 0.9, "rmsprop_epsilon": 1e-3})

    def rule(g, memory):
        mean_square, velocity = (1.0, 0.0) if memory is None else memory
        mean_square = 0.9 * mean_square + 0.1 * g**2
        velocity = 0.9 * velocity + 0.1 * g / np.sqrt(mean_square + 1e-3)
        return velocity, (mean_square, velocity)

    assert_close(updates(config, 3), by_hand(rule, 3, 0.01))


def test_lars_trusts_kernels_alone(config):
    config.optimizer.update({"name": "lars", "nesterov": False, "weight_decay": 0.01})
    config.optimizer.lars_trust_coefficient = 0.001
    after = updates(config, 1)
    p, g = PARAMS["conv"]["kernel"], GRADS["conv"]["kernel"]
    decayed = g + 0.01 * p
    trust = 0.001 * np.linalg.norm(p) / np.linalg.norm(decayed)
    np.testing.assert_allclose(after["conv"]["kernel"], p - 0.1 * trust * decayed, rtol=1e-5)
    np.testing.assert_allclose(after["norm"]["scale"], [3.0 - 0.1 * 0.1], rtol=1e-6)


def adam(g, memory):
    """Kingma and Ba 2015, Algorithm 1, with the moments of GAN training."""
    step, mean, square = (0, 0.0, 0.0) if memory is None else memory
    step, mean, square = step + 1, 0.5 * mean + 0.5 * g, 0.99 * square + 0.01 * g**2
    change = (mean / (1 - 0.5**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-6)
    return 0.1 * change, (step, mean, square)


ADAM = {"adam_beta1": 0.5, "adam_beta2": 0.99, "adam_epsilon": 1e-6, "weight_decay": 0.01}


def test_adam_takes_weight_decay_into_the_gradient(config):
    config.optimizer.update({"name": "adam", **ADAM})
    assert_close(updates(config, 3), by_hand(adam, 3, 0.01))


def test_adamw_takes_weight_decay_from_the_weights(config):
    config.optimizer.update({"name": "adamw", **ADAM})
    after = updates(config, 3)
    expected = by_hand(adam, 3, 0.0)  # what is no kernel is not decayed
    kernel, memory = PARAMS["conv"]["kernel"].astype(np.float64), None
    for _ in range(3):  # Loshchilov and Hutter 2019, Algorithm 2, with both rates 0.1
        change, memory = adam(GRADS["conv"]["kernel"].astype(np.float64), memory)
        kernel = kernel - change - 0.1 * 0.01 * kernel
    expected["conv"]["kernel"] = kernel
    assert_close(after, expected)


def test_clipping_bounds_the_whole_gradient(config):
    config.optimizer.update({"name": "sgd", "nesterov": False, "momentum": 0.0})
    config.optimizer.update({"weight_decay": 0.0, "gradient_clip_norm": 0.1})
    after = updates(config, 1)
    change = jax.tree.map(lambda a, b: a - b, after, PARAMS)
    norm = np.sqrt(sum(np.sum(np.square(c)) for c in jax.tree.leaves(change)))
    assert norm == pytest.approx(0.1 * 0.1, rel=1e-5)


@pytest.mark.parametrize("field", ["optimizer", "schedule"])
def test_unknown_names_list_the_known_ones(config, field):
    config[field].name = "linear"
    make = {
        "optimizer": lambda: updates(config, 1),
        "schedule": lambda: schedule_of(config, "linear"),
    }
    with pytest.raises(UserError, match=rf"config.{field}.name='linear' is unknown; choose one of"):
        make[field]()


@pytest.mark.parametrize("boundaries", [(0.5, 0.3), (0.0, 0.5), (0.5, 1.5)])
def test_boundaries_must_be_increasing_fractions(config, boundaries):
    with pytest.raises(UserError, match="increasing fractions"):
        schedule_of(config, "step", boundaries=boundaries)
