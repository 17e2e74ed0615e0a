"""Frozen parameters, and rates of parts of a network: by hand, in the limit, and refused."""

import jax
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.training.optimizer import OPTIMIZERS, create_optimizer
from evonorm_jax.training.parameter_paths import matches

PARAMS = {
    "stem_conv": {"kernel": np.array([1.0, -2.0], np.float32)},
    "stage1_block1": {"conv1": {"kernel": np.array([4.0], np.float32)}},
    "stage1_block2": {"norm1": {"scale": np.array([1.0], np.float32)}},
    "head_norm": {"scale": np.array([0.5], np.float32)},
    "head": {"kernel": np.array([2.0], np.float32), "bias": np.array([0.0], np.float32)},
}
GRADS = jax.tree.map(lambda x: np.full_like(x, 0.5), PARAMS)
LAYERS = ("stem_*", "stage1_*", "head*")


def train(config, steps=3, grads=GRADS):
    """Parameters after some steps at a rate of 0.25."""
    optimizer = create_optimizer(config.optimizer, lambda step: 0.25)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        change, state = optimizer.update(grads, state, params)
        params = jax.tree.map(lambda p, c: np.asarray(p + c), params, change)
    return params


def plain_sgd(config, **fields):
    config.optimizer.update({"name": "sgd", "momentum": 0.5, "nesterov": False})
    config.optimizer.update({"weight_decay": 0.0, **fields})
    return config


def change_of(params, *path):
    before, after = PARAMS, params
    for key in path:
        before, after = before[key], after[key]
    return (after - before).tolist()


def test_patterns():
    assert matches("stem_*", "stem_conv/kernel")
    assert matches("*/kernel", "stage1_block1/conv1/kernel")
    assert matches("head", "head/bias")
    assert not matches("head", "head_norm/scale")
    assert not matches("stage1", "stage1_block1/conv1/kernel")


def test_multipliers_of_sgd_by_hand(config):
    multipliers = ("head=8", "head*=2", "stem_*=0.5", "*=1")  # the first match counts
    after = train(plain_sgd(config, rate_multipliers=multipliers))
    # Momentum 0.5 over gradients of 0.5: 0.5 + 0.75 + 0.875 = 2.125, times the rate of 0.25.
    change = -2.125 * 0.25
    assert change_of(after, "head", "kernel") == change_of(after, "head", "bias") == [8 * change]
    assert change_of(after, "head_norm", "scale") == [2 * change]
    assert change_of(after, "stem_conv", "kernel") == [change / 2] * 2
    assert change_of(after, "stage1_block1", "conv1", "kernel") == [change]


def test_layers_of_sgd_by_hand(config):
    fields = {"layer_decay": 0.5, "layer_paths": LAYERS, "rate_multipliers": ("head=4",)}
    after = train(plain_sgd(config, **fields), steps=1)
    change = -0.5 * 0.25
    assert change_of(after, "head", "kernel") == [4 * change]
    assert change_of(after, "head_norm", "scale") == [change]
    assert change_of(after, "stage1_block1", "conv1", "kernel") == [change / 2]
    assert change_of(after, "stage1_block2", "norm1", "scale") == [change / 2]
    assert change_of(after, "stem_conv", "kernel") == [change / 4] * 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_multiplier_is_another_learning_rate(config, name):
    config.optimizer.update({"name": name, "weight_decay": 0.0})
    plain = train(config)
    config.optimizer.rate_multipliers = ("head=0.5",)
    after = train(config)
    for module in set(PARAMS) - {"head"}:
        jax.tree.map(np.testing.assert_array_equal, after[module], plain[module])
    config.optimizer.rate_multipliers = ()
    optimizer = create_optimizer(config.optimizer, lambda step: 0.125)
    change, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    config.optimizer.rate_multipliers = ("head=0.5",)
    first = train(config, steps=1)["head"]
    expected = jax.tree.map(lambda p, c: p + c, PARAMS["head"], change["head"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_keep_every_bit(config, name):
    config.optimizer.update({"name": name, "weight_decay": 0.1, "gradient_clip_norm": 0.1})
    config.optimizer.frozen_paths = ("stem_*", "stage1_block1")
    # A gradient that is not finite has no part in the norm that is clipped, either.
    grads = {**GRADS, "stem_conv": {"kernel": np.array([np.inf, np.nan], np.float32)}}
    after = train(config, grads=grads)
    for module in ("stem_conv", "stage1_block1"):
        jax.tree.map(np.testing.assert_array_equal, after[module], PARAMS[module])
    for module in ("stage1_block2", "head_norm", "head"):
        for x, before in zip(
            jax.tree.leaves(after[module]), jax.tree.leaves(PARAMS[module]), strict=True
        ):
            assert np.isfinite(x).all()
            assert (x != before).all()


def test_nothing_set_changes_nothing(config):
    optimizer = create_optimizer(plain_sgd(config).optimizer, lambda step: 0.25)
    state = optimizer.init(PARAMS)
    config.optimizer.layer_paths = LAYERS  # without a layer_decay they mean nothing
    again = create_optimizer(config.optimizer, lambda step: 0.25).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen_paths": ("stm_*",)}, r"frozen_paths: 'stm_\*' matches no parameter .* It has"),
        ({"frozen_paths": ("heads",)}, r"Did you mean head\b.*\? It has head, head_norm, stage1_"),
        ({"frozen_paths": ("stage1",)}, r"matches no parameter .* mean 'stage1\*'\? It has head"),
        ({"frozen_paths": ("stage1_block1/conv2/kernel",)}, "mean stage1_block1/conv1/kernel"),
        ({"frozen_paths": ("*",)}, "freezes all 6 parameters"),
        ({"rate_multipliers": ("stage2_*=0.1",)}, r"rate_multipliers: 'stage2_\*' matches no"),
        ({"rate_multipliers": ("head",)}, r"'head' must be PATTERN=NUMBER .* 'head=10'"),
        ({"rate_multipliers": ("head=0",)}, "'head=0' must be .* above 0"),
        ({"rate_multipliers": ("head=inf",)}, "'head=inf' must be .* above 0"),
        ({"layer_decay": 0.0, "layer_paths": LAYERS}, "layer_decay is 0.0, but must be above 0"),
        ({"layer_decay": 0.5}, "needs the layers, from the images to the classes"),
        ({"layer_decay": 0.5, "layer_paths": LAYERS[:2]}, "leaves 'head/bias' out"),
        ({"layer_decay": 0.5, "layer_paths": (*LAYERS, "tail")}, "layer_paths: 'tail' matches no"),
    ],
)
def test_what_fits_no_parameter_is_refused(config, fields, message):
    with pytest.raises(UserError, match=message):
        train(plain_sgd(config, **fields))
