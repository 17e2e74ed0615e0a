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
from evonorm_jax.data import create_pipeline
from evonorm_jax.errors import UserError
from evonorm_jax.gan.losses import orthogonal_penalty
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.adversarial_step import PLAYERS, _averages, make_train_step
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import replica_divergence, to_host
from evonorm_jax.training.sample_figures import SampleFigures
from evonorm_jax.training.state import TrainState
from evonorm_jax.training.tasks.image_synthesis import _every
from evonorm_jax.training.trained_generator import load_generator
from experiments import launch

ONE_DEVICE = jax.devices()[:1]
PENALTY = 0.01  # weight of the orthogonal penalty in `sgd_run`


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
    step = make_train_step(
        *(run.task.gan, run.task.optimizers, run.pipeline),
        per_device=run.layout.per_device,
        discriminator_steps=2,
        orthogonal_regularization=PENALTY,
    )
    run.task.traces = []

    def counted(*arguments):
        run.task.traces.append(arguments)
        return step(*arguments)

    run.task._step = counted
    return run, run.train_step()


def with_rates(state, **rates):
    """The same state with these learning rates of the players."""
    opt_state = {
        player: optimizer._replace(hyperparams={"learning_rate": np.float32(rates[player])})
        for player, optimizer in state.opt_state.items()
    }
    return state.replace(opt_state=opt_state)


def run_steps(run, step, state, count, change=lambda batch: batch):
    """The state after some steps with changed batches, replicated, and the last metrics."""
    state = run.parallel.replicate(jax.tree.map(np.array, state))
    resident = run.parallel.replicate(run.pipeline.resident())
    batches = run.pipeline.train_batches(
        start_step=0, batch_size=run.images_per_step, hosts=run.parallel.hosts
    )
    for _ in range(count):
        state, metrics = step(state, resident, run.parallel.shard(change(next(batches))))
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
    assert all(np.isfinite(value) for row in rows for value in row.values())
    for name in ("generator_loss", "discriminator_loss", "score_real", "score_fake"):
        assert len({row[f"train/{name}"] for row in rows}) == 8  # all of them move
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


def test_each_player_has_an_adam_of_its_own(finished):
    """That of the discriminator has made two updates in each of the eight steps."""
    shapes = create_experiment(tiny_config(), ONE_DEVICE).state_shapes()
    with Checkpoints(finished[0], read_only=True) as checkpoints:
        state, _ = checkpoints.restore(shapes)
    for player, updates in (("generator", 8), ("discriminator", 16)):
        counts = optax.tree.get_all_with_path(state.opt_state[player], "count")
        assert {int(count) for _, count in counts} == {updates}


def test_schedules_count_steps_and_not_updates():
    schedule = _every(lambda step: 0.5**step, 2)
    assert [schedule(update) for update in range(5)] == [1, 1, 0.5, 0.5, 0.25]


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
    before = with_rates(start, **{player: 1e-3 * (player == moved) for player in PLAYERS})
    after = to_host(run_steps(run, step, before, 1)[0])
    for player in PLAYERS:
        old, new = (jax.tree.leaves(s.params[player]) for s in (before, after))
        changed = [not np.array_equal(*pair) for pair in zip(old, new, strict=True)]
        assert any(changed) == (player == moved)
        # The power method of both goes on all the same.
        old, new = (jax.tree.leaves(s.collections["spectral"][player]) for s in (before, after))
        assert any(not np.array_equal(*pair) for pair in zip(old, new, strict=True))


def test_the_orthogonal_penalty_alone_moves_the_generator(one_device):
    """A discriminator of zeros gives no gradient, so the penalty's is all that is left."""
    run, step, start = one_device
    params = start.params | {
        "discriminator": jax.tree.map(np.zeros_like, start.params["discriminator"])
    }
    before = with_rates(start.replace(params=params), generator=1.0, discriminator=0.0)
    after = to_host(run_steps(run, step, before, 1)[0])
    expected = jax.tree.map(
        lambda p, gradient: p - PENALTY * gradient,
        params["generator"],
        jax.grad(orthogonal_penalty)(params["generator"]),
    )
    moved = largest_difference(expected, params["generator"])
    assert moved > 1e-3
    assert largest_difference(after.params["generator"], expected) < 1e-4 * moved


@pytest.mark.parametrize("update", [0, 1])
def test_every_update_of_the_discriminator_has_images_of_its_own(one_device, update):
    run, step, start = one_device

    def change(batch):
        index = np.array(batch["index"])
        index[..., update::2] = (index[..., update::2] + 1) % run.pipeline.num_train_examples
        return {**batch, "index": index}

    first, second = (
        to_host(run_steps(run, step, start, 1, c)[0].params["discriminator"])
        for c in (lambda batch: batch, change)
    )
    assert largest_difference(first, second) > 1e-6


def test_all_steps_are_traced_once(one_device):
    run, step, start = one_device
    run_steps(run, step, start, 3)
    assert len(run.task.traces) == 1


def largest_difference(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


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


@pytest.mark.slow  # three minutes of one core
def test_digits_are_learned(tmp_path):
    """The recipe as it is; the bounds lie outside of what the three recorded seeds reach.

    A collapse would show in the variance within a class and in the recall. The accuracy would rise.
    """
    config = synthesis_recipes.biggan_deep_digits("evonorm_s0")
    config.eval_every_epochs = 0.0  # at the end
    summary = train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert summary["steps"] == 3000
    assert summary["samples/conditional_accuracy"] > 0.85
    assert 0.8 < summary["samples/within_class_variance"] < 1.8
    assert summary["samples/classifier_recall"] > 0.6
    assert summary["samples/classifier_precision"] > 0.5
    assert summary["samples/classifier_fid_real"] < summary["samples/classifier_fid"] < 1.5

    # What is drawn from the run afterwards is what its evaluation has measured.
    generator = load_generator(tmp_path)
    figures = SampleFigures(config, create_pipeline(config.dataset, seed=0, evaluation_only=True))
    fid, *_ = figures.measure(*generator.samples(figures.num_samples))
    assert fid.name == "classifier_fid"
    assert fid.value == pytest.approx(summary["samples/classifier_fid"], rel=0.01)
