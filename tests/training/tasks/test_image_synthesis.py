"""Both players in the one loop: what a step moves, resuming, devices, averages, bad input."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import synthesis_recipes
from evonorm_jax.errors import UserError
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.adversarial_step import PLAYERS, _averages, make_train_step
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import replica_divergence, to_host
from evonorm_jax.training.state import TrainState
from experiments import launch

ONE_DEVICE = jax.devices()[:1]


def tiny_config(norm_act="evonorm_b0", **overrides):
    """Eight steps on fake digits, in bfloat16."""
    config = synthesis_recipes.smoke(synthesis_recipes.biggan_deep_digits(norm_act))
    config.model.fields.update({"num_filters": 4, "discriminator_num_filters": 4})
    config.discriminator_steps = 2
    config.dtype = "bfloat16"
    return launch.override(config, [f"--config.{n}={v}" for n, v in overrides.items()])


def sgd_run(devices):
    """A run of both players by SGD, whose learning rates lie in the state; and its step."""
    overrides = {"sync_batch_stats": True, "dtype": "float32"}
    run = create_experiment(tiny_config("bn_relu", **overrides), devices)
    sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=1e-3)
    run.task.optimizers = dict.fromkeys(PLAYERS, sgd)
    run.task._step = make_train_step(
        *(run.task.gan, run.task.optimizers, run.pipeline),
        per_device=run.layout.per_device,
        discriminator_steps=2,
        orthogonal_regularization=0.01,
    )
    return run, run.train_step()


def run_steps(run, step, state, count):
    """The state after some steps, replicated, and the last metrics."""
    state = run.parallel.replicate(jax.tree.map(np.array, state))
    resident = run.parallel.replicate(run.pipeline.resident())
    batches = run.pipeline.train_batches(
        start_step=0, batch_size=run.images_per_step, hosts=run.parallel.hosts
    )
    for _ in range(count):
        state, metrics = step(state, resident, run.parallel.shard(next(batches)))
    return state, metrics


def restored(workdir, step=None):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.read_variables(step)[1:]


def train_tiny(workdir):
    """The run directory, the summary and what was reported."""
    stream = io.StringIO()
    summary = train_and_evaluate(tiny_config(), workdir, devices=ONE_DEVICE, progress_stream=stream)
    return workdir, summary, stream.getvalue()


@pytest.fixture(scope="module")
def finished(synthesis_run):
    return synthesis_run


def test_what_is_said(finished):
    assert finished[2].count("evaluating: 0 of 20 images, compiling first\n") == 1


def test_what_is_logged(finished):
    workdir, summary, _ = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/generator_loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    last = {name.removeprefix("train/"): value for name, value in rows[-1].items()}
    for player in ("generator", "discriminator"):
        assert last[f"{player}_grad_norm"] > 0
        assert last[f"{player}_sigma"] == pytest.approx(1, abs=0.2)  # orthogonal kernels
    assert last["discriminator_loss"] == pytest.approx(last["loss_real"] + last["loss_fake"])
    assert (last["generator_learning_rate"], last["discriminator_learning_rate"]) == (1e-4, 4e-4)
    assert summary["eval/examples"] == 20
    assert summary["eval/score_gap"] == pytest.approx(
        summary["eval/score_real"] - summary["eval/score_fake"]
    )


def test_the_sheets(finished):
    workdir, *_ = finished
    sizes = {}
    for path in (workdir / "samples").iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    # Images of 8 pixels are shown four times as large, with a pixel between them.
    assert sizes == {
        "0000008.png": (10 * 33 - 1, 10 * 33 - 1),
        "interpolations.png": (9 * 33 - 1, 6 * 33 - 1),
        "truncations.png": (10 * 33 - 1, 5 * 33 - 1),
        "neighbours.png": (5 * 33 - 1, 20 * 33 - 1),
    }


def test_averages_start_late(finished):
    for step, equal in ((4, True), (8, False)):
        variables, averages = restored(finished[0], step)
        newest = jax.tree.leaves(variables["params"]["generator"])
        pairs = zip(newest, jax.tree.leaves(averages["params"]["generator"]), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == equal


def test_the_averages_by_hand():
    params = {"generator": jnp.array([2.0]), "discriminator": jnp.zeros(3)}
    ema = {"params": {"generator": jnp.array([1.0])}}
    state = TrainState(jnp.array(5), params, {}, (), ema)
    assert _averages(state, 0.75, 5) == {"params": {"generator": jnp.array([2.0])}}
    assert _averages(state, 0.75, 4) == {"params": {"generator": jnp.array([1.25])}}


def test_it_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    workdir, summary, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 3
        )
        assert train_and_evaluate(tiny_config(), tmp_path, devices=ONE_DEVICE) == {}
    resumed = train_and_evaluate(tiny_config(), tmp_path, devices=ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, restored(tmp_path), restored(workdir))
    assert resumed["eval/score_gap"] == summary["eval/score_gap"]
    sheet = "samples/0000008.png"
    assert (tmp_path / sheet).read_bytes() == (workdir / sheet).read_bytes()


@pytest.fixture(scope="module")
def one_device():
    run, step = sgd_run(ONE_DEVICE)
    return run, step, run.create_state()


def test_eight_devices_equal_one(one_device):
    """By SGD: Adam makes steps of one size, also of gradients that are nothing but rounding."""
    run, step, start = one_device
    one, one_metrics = run_steps(run, step, start, 2)
    eight, eight_metrics = run_steps(*sgd_run(jax.devices()), start, 2)
    assert replica_divergence(eight) == 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        to_host((one, one_metrics)),
        to_host((eight, eight_metrics)),
    )


@pytest.mark.parametrize("moved", PLAYERS)
def test_no_update_moves_the_other_player(one_device, moved):
    """Where the learning rate of one player is 0, its parameters stay to the last bit."""
    run, step, start = one_device
    rates = {player: 1e-3 * (player == moved) for player in PLAYERS}
    before = start.replace(
        opt_state={
            player: optimizer._replace(hyperparams={"learning_rate": np.float32(rates[player])})
            for player, optimizer in start.opt_state.items()
        }
    )
    after = to_host(run_steps(run, step, before, 1)[0])
    for player in PLAYERS:
        old, new = (jax.tree.leaves(s.params[player]) for s in (before, after))
        changed = [not np.array_equal(*pair) for pair in zip(old, new, strict=True)]
        assert any(changed) == (player == moved)
        # The power method of both goes on all the same.
        old, new = (jax.tree.leaves(s.collections["spectral"][player]) for s in (before, after))
        assert any(not np.array_equal(*pair) for pair in zip(old, new, strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset.image_size": 16}, "is for 8x8 pixels, but the images of digits are 16x16"),
        ({"dataset.mean": (77.98,)}, "set all of them to 127.5"),
        ({"dataset.num_classes": 1}, "num_classes=1: a class-conditional GAN needs at least 2"),
        ({"model.fields.depth": 8}, "config.model.fields.depth: biggan_deep_8 has no such field"),
        ({"model.name": "biggan_deep_9"}, "unknown network: 'biggan_deep_9'. Did you mean"),
        ({"ema_decay": 1.0}, "config.ema_decay=1.0; it must be at least 0 and below 1"),
        ({"discriminator_steps": 0}, "config.discriminator_steps=0; it must be at least 1"),
        ({"discriminator_steps": 5}, "A batch of 40 does not fit a training split of 32"),
        ({"num_workers": 3, "images_per_worker": 3}, "cannot be divided over 8 devices"),
        ({"generator_optimizer.learning_rate": 0.0}, "config.generator_optimizer.learning_rate=0"),
        ({"generator_optimizer.name": "adan"}, "config.generator_optimizer.name='adan' is"),
        ({"figures.network": "fid"}, "config.figures.network='fid': it must be 'digits'"),
        ({"figures.network": "digits", "figures.num_samples": 64}, "is not more than the 64"),
        ({"figures.network": "digits", "figures.reference": "all"}, "choose one of train, eval"),
        ({"figures.network": "digits", "dataset.num_classes": 9}, "knows 10 classes, but digits"),
    ],
)
def test_bad_input(overrides, message):
    with pytest.raises(UserError, match=message):
        create_experiment(tiny_config(**overrides))


def test_labels_of_one_class_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 8, 8), np.uint8)
    labels = np.full(32, 3)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    path = tmp_path / "data.npz"
    source = {"dataset.source": "npz", "dataset.path": path, "dataset.num_classes": 0}
    sizes = {"dataset.num_train_examples": 0, "dataset.num_eval_examples": 0}
    with pytest.raises(UserError, match="All 32 training images of digits have class 3"):
        create_experiment(tiny_config(**source, **sizes), ONE_DEVICE)
