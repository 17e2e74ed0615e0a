import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import recipes
from evonorm_jax.training import steps
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import joined_mean, replica_divergence, to_host
from evonorm_jax.training.state import evaluation_variables
from evonorm_jax.training.steps import update_ema
from evonorm_jax.training.tasks.classification import Classification


class TinyNet(nn.Module):
    """The smallest network with two layers that see different statistics: compiles in a second."""

    num_classes: int
    norm_act: Callable[..., nn.Module]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        layer = functools.partial(self.norm_act, use_running_average=not train, dtype=self.dtype)
        x = layer()(nn.Conv(8, (3, 3), strides=2, dtype=self.dtype)(x))
        x = layer()(nn.Conv(8, (1, 1), dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)).astype(jnp.float32))


def small_config(layer="evonorm_b0", workers=8, images=4, **fields):
    config = recipes.smoke(recipes.digits(layer))
    config.num_workers, config.images_per_worker = workers, images
    config.update_from_flattened_dict(fields)
    return config


def with_model(run, model):
    task = Classification(run.config, run.pipeline, run.layout, run.durations, model=model)
    return dataclasses.replace(run, task=task)


@functools.cache
def trained(num_devices, num_steps=2, **fields):
    """The run, its states and its losses after each of its steps on `num_devices` devices."""
    run = create_experiment(small_config(**fields), jax.devices()[:num_devices])
    model = run.task.model  # its layer knows the workers; the network around it is not needed
    run = with_model(run, TinyNet(model.num_classes, model.norm_act, model.dtype))
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    step = run.train_step()
    batches = run.pipeline.train_batches(
        start_step=0, batch_size=run.layout.batch_size, hosts=run.parallel.hosts
    )
    states, losses = [], []
    for _ in range(num_steps):
        state, metrics = step(state, resident, run.parallel.shard(next(batches)))
        assert replica_divergence(state) == 0
        states.append(to_host(state))
        losses.append(float(metrics["loss"]))
    return run, states, losses


def assert_same_training(a, b, rtol=2e-4):
    """Parameters and statistics agree to float32 rounding, relative to each array's largest."""
    (_, (_, state_a), losses_a), (_, (_, state_b), losses_b) = a, b
    np.testing.assert_allclose(losses_a, losses_b, rtol=2e-6)

    def close(x, y):
        scale = float(np.max(np.abs(x)))
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(scale, 1e-3))

    trees = ((s.params, s.collections) for s in (state_a, state_b))
    jax.tree.map(close, *trees)


@pytest.mark.parametrize("layer", ["evonorm_b0", "bn_relu"])
def test_eight_workers_on_one_device_are_eight_devices(layer):
    assert_same_training(trained(8, layer=layer), trained(1, layer=layer))


@pytest.mark.parametrize("layer", ["bn_relu", "evonorm_b0", "evonorm_s0"])
def test_the_loss_curve_is_the_same_on_one_two_four_and_eight_devices(layer):
    curves = [trained(n, num_steps=8, layer=layer)[2] for n in (1, 2, 4, 8)]
    assert np.ptp(curves[0]) > 0.01  # it learns, so a difference could grow
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=2e-5)


def test_frozen_parameters_have_no_part_in_a_step():
    run, (first, second), _ = trained(1, workers=1, **{"optimizer.frozen_paths": ("*kernel",)})
    drawn = to_host(run.parallel.replicate(run.create_state()))
    for path, x in jax.tree_util.tree_leaves_with_path(second.params):
        before = functools.reduce(lambda tree, key: tree[key.key], path, drawn.params)
        assert (path[-1].key == "kernel") == np.array_equal(x, before), path
    moved = jax.tree.map(np.array_equal, first.collections, second.collections)
    assert not any(jax.tree.leaves(moved))  # running statistics follow the data nevertheless


def test_eight_workers_on_two_devices_are_eight_devices():
    assert_same_training(trained(8, layer="evonorm_b0"), trained(2, layer="evonorm_b0"))


@pytest.mark.parametrize("layer", ["evonorm_b0", "bn_relu"])
def test_two_workers_spread_over_eight_devices(layer):
    fields = {"layer": layer, "workers": 2, "images": 16}
    assert_same_training(trained(8, **fields), trained(1, **fields))


def test_training_is_the_same_where_gradients_cross_in_one_buffer(monkeypatch):
    monkeypatch.setattr(steps, "mean_over_devices", joined_mean)  # as on GPUs
    joined = trained.__wrapped__(8, layer="evonorm_b0")
    monkeypatch.undo()
    # Not bit for bit: the compiler fuses what computes the gradients differently.
    assert_same_training(joined, trained(8, layer="evonorm_b0"), rtol=1e-6)
    assert_same_training(joined, trained(1, layer="evonorm_b0"))


def test_workers_are_not_synchronised_unless_asked():
    apart = trained(8, layer="bn_relu")[2]
    together = trained(8, layer="bn_relu", sync_batch_stats=True)
    one_worker = trained(1, layer="bn_relu", workers=1, images=32)
    assert_same_training(together, one_worker)
    assert abs(apart[0] - together[2][0]) > 1e-4  # 20 times what the comparison above allows


def test_three_steps_trace_once():
    traces = []

    class CountingNet(TinyNet):
        def __call__(self, x, train):
            traces.append(train)
            return super().__call__(x, train)

    run = create_experiment(small_config())
    run = with_model(run, CountingNet(10, run.task.model.norm_act))
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    step = run.train_step()
    batches = run.pipeline.train_batches(start_step=0, batch_size=32, hosts=run.parallel.hosts)
    traces.clear()
    for _ in range(3):
        state, _ = step(state, resident, run.parallel.shard(next(batches)))
    assert traces == [True]


@pytest.mark.parametrize("fields", [{"layer": "evonorm_s0"}, {"layer": "evonorm_b0"}])
def test_accumulated_micro_batches_are_the_whole_batch(fields):
    whole = trained(2, **fields)
    split = trained(2, **fields, gradient_accumulation_steps=2)
    assert_same_training(whole, split)


def test_a_step_is_sgd_on_the_mean_loss():
    """One step against plain `jax.grad` of the loss over the whole batch, written out."""
    fields = {"layer": "evonorm_s0", "label_smoothing": 0.1, "optimizer.weight_decay": 0.01}
    fields["schedule.warmup_epochs"] = 0.0
    run, (state, _), losses = trained(8, **fields)
    start = run.create_state()
    resident = run.pipeline.resident()
    batch = next(run.pipeline.train_batches(start_step=0, batch_size=32, hosts=run.parallel.hosts))
    flat = {name: leaf.reshape(-1) for name, leaf in batch.items()}
    step_key = jax.random.fold_in(jax.random.key(run.config.seed), 0)
    augment_key = jax.random.split(step_key, 3)[0]
    keys = jax.vmap(lambda p: jax.random.fold_in(augment_key, p))(jnp.arange(32))
    examples = run.pipeline.train_examples(resident, flat, keys)
    images, labels = examples["image"], examples["label"]

    def loss(params):
        logits = run.task.model.apply({"params": params}, images, train=True)
        smooth = jax.nn.one_hot(labels, 10) * 0.9 + 0.1 / 10
        return -jnp.mean(jnp.sum(smooth * jax.nn.log_softmax(logits), axis=-1))

    value, gradient = jax.jit(jax.value_and_grad(loss))(start.params)
    assert losses[0] == pytest.approx(float(value), rel=1e-6)
    rate = run.task.rates(0)["learning_rate"]
    assert rate > 0

    def expected(path, p, g):
        g = g + 0.01 * p if path[-1].key == "kernel" else g
        return p - rate * 1.9 * g  # first Nesterov step: g + 0.9 g

    wanted = jax.tree_util.tree_map_with_path(expected, start.params, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, wanted
    )


def test_ema_follows_the_formula():
    run, (after_one, state), _ = trained(1, layer="evonorm_b0", ema_decay=0.5)
    # decays (1 + n) / (10 + n) after the updates n = 1, 2: 2/11 and 3/12, both below 0.5
    start = run.create_state()

    def expected(a, b, c):
        return 3 / 12 * (2 / 11 * a + 9 / 11 * b) + 9 / 12 * c

    wanted = jax.tree.map(expected, start.params, after_one.params, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.ema["params"],
        wanted,
    )


def test_ema_decay_is_its_limit_in_long_runs():
    _, (_, state), _ = trained(1, layer="evonorm_b0", ema_decay=0.5)
    late = state.replace(step=jnp.int32(10_000), ema=jax.tree.map(jnp.zeros_like, state.ema))
    moved = update_ema(late, 0.999)
    jax.tree.map(
        lambda e, p: np.testing.assert_allclose(e, 0.001 * p, rtol=1e-3),
        moved["params"],
        state.params,
    )


class SpectralNet(nn.Module):
    """Keeps a vector and a count beside its parameters, as spectral norms do."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=2)(x))
        u = self.variable("spectral", "u", jnp.ones, (4,))
        steps = self.variable("spectral", "steps", jnp.zeros, (), jnp.int32)
        if train:
            u.value, steps.value = 2 * u.value, steps.value + 1
        return nn.Dense(10)(x.mean((1, 2)) * u.value)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_every_collection_of_a_network_is_kept(tmp_path, accumulation_steps):
    fields = {"layer": "evonorm_s0", "ema_decay": 0.5}
    config = small_config(**fields, gradient_accumulation_steps=accumulation_steps)
    run = with_model(create_experiment(config, jax.devices()[:2]), SpectralNet())
    state, step = run.parallel.replicate(run.create_state()), run.train_step()
    resident = run.parallel.replicate(run.pipeline.resident())
    batches = run.pipeline.train_batches(start_step=0, batch_size=32, hosts=run.parallel.hosts)
    for _ in range(3):
        state, _ = step(state, resident, run.parallel.shard(next(batches)))
    assert replica_divergence(state) == 0
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, config)
        checkpoints.wait()
        restored, _ = checkpoints.restore(run.state_shapes())
    jax.tree.map(np.testing.assert_array_equal, restored, to_host(state))
    spectral = restored.collections["spectral"]
    assert (spectral["u"].tolist(), spectral["steps"].tolist()) == ([8.0] * 4, 3)
    assert spectral["steps"].dtype == np.int32
    # The averages have nothing of it, and are evaluated with the newest.
    assert set(restored.ema) == {"params", "batch_stats"}
    variables = evaluation_variables(restored, ema=True)
    assert variables["spectral"] is spectral
    assert variables["batch_stats"] is restored.ema["batch_stats"]


def test_cutmix_and_erasing_are_the_same_on_any_number_of_devices():
    fields = {"layer": "evonorm_s0", "cutmix_alpha": 1.0, "random_erasing": 0.5}
    assert_same_training(trained(8, **fields), trained(1, **fields))


def test_bfloat16_trains_close_to_float32():
    _, (_, state), half = trained(1, layer="evonorm_s0", dtype="bfloat16")
    full = trained(1, layer="evonorm_s0")[2]
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half, full, rtol=2e-2)


def test_evaluation_counts_every_example_once_on_any_number_of_devices():
    results = []
    for num_devices in (1, 8):
        run, (_, state), _ = trained(num_devices, layer="evonorm_b0")
        state = run.parallel.replicate(state)
        resident = run.parallel.replicate(run.pipeline.resident())
        results.append(run.evaluator()(state, resident))
    assert results[0]["eval/examples"] == run.pipeline.num_eval_examples == 20
    assert results[0] == pytest.approx(results[1], rel=1e-4)
