"""What a network drops belongs to the example, however the batch lies on devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model, model_names
from evonorm_jax.models.stochastic_depth import stochastic_depth
from evonorm_jax.training.dropout import dropout_by_position
from evonorm_jax.training.parallel import AXIS, DataParallel, positions, to_host
from evonorm_jax.training.state import create_train_state
from evonorm_jax.training.steps import gradient_step

# One network of each family, as small as it gets.
FAMILIES = {
    "resnet50": {"stage_sizes": (1,), "num_filters": 8},
    "resnet50_v1": {"stage_sizes": (1,), "num_filters": 8, "norm_act": "bn_relu"},
    "cifar_resnet20": {"depth": 8, "num_filters": 8},
    "mobilenet_v2": {"stage_sizes": (1, 2)},
    "mnasnet_b1": {"stage_sizes": (1, 2)},
    "efficientnet_b0": {"stage_sizes": (1, 2)},
}


def test_every_network_is_of_one_of_these_families():
    def families(names):
        return {type(create_model(name, 10, norm_act="bn_relu")) for name in names}

    assert families(model_names()) == families(FAMILIES)


def drawn_masks(model, num_devices):
    """What every dropout does to ones, by its place in the network: `[8, ...]` of the batch."""
    images = jnp.ones((8, 8, 8, 3))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    per_device = len(images) // num_devices

    def step(images):
        masks = {}

        def record(call, args, kwargs, context):
            if not isinstance(context.module, nn.Dropout):
                return call(*args, **kwargs)
            mask = call(jnp.ones_like(args[0]), *args[1:], **kwargs)
            masks["/".join(context.module.path)] = mask
            return mask * args[0]

        variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        # The outer one of the two comes first, and the compiler leaves the network itself out.
        with nn.intercept_methods(record), dropout_by_position(positions(per_device)):
            model.apply(
                variables,
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
        return masks

    split = images.reshape(num_devices, per_device, *images.shape[1:])
    masks = jax.pmap(step, AXIS, devices=jax.devices()[:num_devices])(split)
    return {name: np.asarray(mask).reshape(8, *mask.shape[2:]) for name, mask in masks.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_values_are_dropped_on_one_device_and_on_four(name):
    model = create_model(name, 10, **{"norm_act": "evonorm_b0", **FAMILIES[name]})
    rates = {"dropout_rate": 0.5, "survival_probability": 0.3}
    rates = {field: rate for field, rate in rates.items() if hasattr(model, field)}
    model = model.clone(**rates)
    one, four = drawn_masks(model, 1), drawn_masks(model, 4)
    assert one.keys() == four.keys() >= {"Dropout_0"}
    assert ("survival_probability" in rates) == (len(one) > 1)
    for where, mask in one.items():
        np.testing.assert_array_equal(four[where], mask)
    # Examples differ from one another.
    assert len(np.unique(one["Dropout_0"].reshape(8, -1), axis=0)) == 8


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + stochastic_depth(nn.Dense(16)(x)[:, None, None], 0.5, True)[:, 0, 0]


class Regressor(nn.Module):
    """Drops features, a branch that is computed twice, and values by a mask that examples share."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.Dense(16)(x))
        x = nn.remat(Branch)()(x)
        x = nn.Dropout(0.5, broadcast_dims=(0,), deterministic=False)(x)
        return nn.Dense(1)(x)[:, 0]


def losses(num_devices, accumulation_steps):
    """The losses of three steps on a global batch of eight."""
    model, optimizer = Regressor(), optax.sgd(0.005)
    x = jax.random.normal(jax.random.key(0), (8, 4))
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    parallel = DataParallel(jax.devices()[:num_devices])

    def loss(variables, examples, key):
        y = model.apply(variables, examples, rngs={"dropout": key})
        return jnp.mean((y - 1) ** 2), ({}, {})

    def step(state, key, examples):
        return gradient_step(
            state, loss, examples, key, optimizer=optimizer, accumulation_steps=accumulation_steps
        )

    run = parallel.parallelize(step)
    state = parallel.replicate(create_train_state(model.init(keys, x), optimizer, use_ema=False))
    batch = parallel.shard(x.reshape(num_devices, -1, 4))
    found = []
    for number in range(3):
        state, metrics = run(state, parallel.replicate(jax.random.key(number)), batch)
        found.append(float(to_host(metrics["loss"])))
    return found


def test_the_losses_are_the_same_however_the_batch_is_split():
    expected = losses(1, 1)
    np.testing.assert_allclose(losses(4, 2), expected, rtol=1e-6)
    assert np.ptp(expected) > 0.01


class Drop(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.25, deterministic=False)(x)


def test_the_rows_of_an_example_draw_apart():
    x = jnp.ones((4 * 512, 8))
    with dropout_by_position(jnp.arange(4)):
        y = Drop().apply({}, x, rngs={"dropout": jax.random.key(0)})
    # By hand: a value stays with probability 3/4, and is then 4/3; the standard error is 0.003.
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert abs(np.mean(np.asarray(y) > 0) - 0.75) < 0.015
    assert len(np.unique(np.asarray(y).reshape(4, -1), axis=0)) == 4


def test_the_caller_may_choose_the_key():
    class Chosen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5)(x, deterministic=False, rng=jax.random.key(7))

    x = jnp.ones((4, 8))
    with dropout_by_position(jnp.arange(4)):
        y = Chosen().apply({}, x)
    np.testing.assert_array_equal(y, Chosen().apply({}, x))


def test_rows_that_are_not_of_the_examples_are_refused():
    message = r"shape \(5, 8\) in a step of 4 examples: the first axis must hold them"
    with dropout_by_position(jnp.arange(4)), pytest.raises(UserError, match=message):
        Drop().apply({}, jnp.ones((5, 8)), rngs={"dropout": jax.random.key(0)})
