"""Runs that start from weights: what is loaded, what is said, what is refused."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import recipes
from evonorm_jax.errors import UserError
from evonorm_jax.interop import from_timm_state_dict, save_timm_weights, timm_tensors
from evonorm_jax.interop.safetensors_file import read_safetensors, write_safetensors
from evonorm_jax.run_files import CLASSES_FILE, write_json
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from tests.interop.cases import make_case

ONE_DEVICE = jax.devices()[:1]
SMALL = {"stage_sizes": (1,), "num_filters": 4}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Weights of a one-block resnet50 with 10 classes, and the variables in it."""
    shapes = {name: t.timm_shape for name, t in timm_tensors("resnet50", 10, 1, **SMALL).items()}
    state_dict = make_case(shapes, batch=1, image_size=8, num_classes=10).state_dict
    variables = from_timm_state_dict(state_dict, "resnet50", **SMALL)
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_timm_weights(variables, path, "resnet50", **SMALL)
    return str(path), variables


@pytest.fixture
def fine_tuning(weights_file):
    """Two steps on fake digits from that file."""
    config = recipes.smoke(recipes.digits("bn_relu"))
    config.model.update(name="resnet50_v1", norm_act="bn_relu")
    config.model.fields = ConfigDict(SMALL)
    config.num_epochs, config.num_steps, config.schedule.warmup_epochs = 0.0, 2, 0.0
    config.init_from, config.init_from_model = weights_file[0], "resnet50"
    return config


@pytest.fixture(scope="module")
def earlier_run(tmp_path_factory):
    config = recipes.smoke(recipes.digits("evonorm_b0"))
    config.num_epochs, config.num_steps, config.schedule.warmup_epochs = 0.0, 1, 0.0
    workdir = tmp_path_factory.mktemp("runs") / "earlier"
    train_and_evaluate(config, workdir, devices=ONE_DEVICE)
    return config, workdir


def start(config):
    run = create_experiment(config, ONE_DEVICE)
    weights = run.task.initial_weights()
    return run.create_state(weights.variables), weights.description


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, dict(tree), dict(expected))


def test_a_run_starts_from_a_file(fine_tuning, weights_file, tmp_path):
    fine_tuning.ema_decay = 0.9
    state, description = start(fine_tuning)
    assert description == f"Starting from {weights_file[0]} (timm's resnet50)."
    assert_equal(state.params, weights_file[1]["params"])
    assert_equal(state.collections, {"batch_stats": weights_file[1]["batch_stats"]})
    assert_equal(state.ema, {"params": state.params, **state.collections})
    assert int(state.step) == 0


def test_a_head_for_other_classes_is_new(fine_tuning, weights_file):
    fine_tuning.dataset.num_classes = 7
    state, description = start(fine_tuning)
    note = ", but for the head: a new one for 7 classes (there 10)."
    assert description == f"Starting from {weights_file[0]} (timm's resnet50){note}"
    loaded = {name: module for name, module in state.params.items() if name != "head"}
    theirs = {n: module for n, module in weights_file[1]["params"].items() if n != "head"}
    assert_equal(loaded, theirs)
    fresh = create_experiment(fine_tuning, ONE_DEVICE).create_state()
    assert_equal(state.params["head"], fresh.params["head"])
    assert state.params["head"]["kernel"].shape == (16, 7)


def test_training_says_so_once_and_resumes_without_the_file(fine_tuning, tmp_path, monkeypatch):
    stream = io.StringIO()
    workdir = tmp_path / "run"
    fine_tuning.checkpoint_every_steps = 1
    train_and_evaluate(fine_tuning, workdir, devices=ONE_DEVICE, progress_stream=stream)
    assert stream.getvalue().count("Starting from ") == 1
    # As if it had been stopped before its last step, and the file were gone.
    (workdir / "summary.json").unlink()
    last = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert last.name == "2"
    for path in sorted(last.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    last.rmdir()
    monkeypatch.setattr("evonorm_jax.training.init_from.load_timm_weights", None)
    stream = io.StringIO()
    summary = train_and_evaluate(fine_tuning, workdir, devices=ONE_DEVICE, progress_stream=stream)
    assert "Resuming " in stream.getvalue()
    assert "Starting from " not in stream.getvalue()
    assert summary["steps"] == 2


def test_a_run_starts_from_an_earlier_one(earlier_run):
    config, workdir = earlier_run
    config = config.copy_and_resolve_references()
    config.init_from = str(workdir)
    config.dataset.num_classes = 4
    state, description = start(config)
    assert description == (
        f"Starting from {workdir} at step 1, but for the head: a new one for 4 classes (there 10)."
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        _, saved, averages = checkpoints.read_variables()
    assert averages == {}
    assert_equal(state.collections["batch_stats"], saved["batch_stats"])
    np.testing.assert_array_equal(
        state.params["stem_conv"]["kernel"], saved["params"]["stem_conv"]["kernel"]
    )
    assert state.params["head"]["bias"].shape == (4,)


def test_a_head_for_classes_of_other_names_is_new(earlier_run, tmp_path):
    config, workdir = earlier_run
    copied = tmp_path / "named"
    shutil.copytree(workdir, copied)
    theirs = [f"breed {i}" for i in range(10)]
    classes = json.loads((copied / CLASSES_FILE).read_text())
    write_json(copied / CLASSES_FILE, classes | {"class_names": theirs})
    config = config.copy_and_resolve_references()
    config.init_from = str(copied)
    run = create_experiment(config, ONE_DEVICE)
    run.pipeline.class_names = tuple(theirs)
    assert "head" in run.task.initial_weights().variables["params"]
    run.pipeline.class_names = (*theirs[1:], theirs[0])  # as many, in another order
    weights = run.task.initial_weights()
    assert "head" not in weights.variables["params"]
    assert weights.description == (
        f"Starting from {copied} at step 1, but for the head: a new one for breed 1, breed 2, "
        "breed 3, ... (there breed 0, breed 1, breed 2, ...)."
    )


def save_run(config, state, workdir):
    workdir.mkdir()
    (workdir / "config.json").write_text(config.to_json())
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(create_experiment(config, ONE_DEVICE).parallel.replicate(state), config)


@pytest.mark.hostile
def test_weights_that_are_not_finite_are_refused(tmp_path, earlier_run, fine_tuning):
    config = earlier_run[0].copy_and_resolve_references()
    state = create_experiment(config, ONE_DEVICE).create_state()
    kernel = state.params["head"]["kernel"].at[0, 0].set(jnp.nan)
    head = {**state.params["head"], "kernel": kernel}
    save_run(config, state.replace(params={**state.params, "head": head}), tmp_path / "diverged")
    config.init_from = str(tmp_path / "diverged")
    message = r"diverged at step 0: 1 of \d+ tensors are .* 'params/head/kernel' \(1 of"
    with pytest.raises(UserError, match=message):
        start(config)

    weights = read_safetensors(fine_tuning.init_from)
    weights["conv1.weight"][0, 0, 0, 0] = np.inf
    fine_tuning.init_from = str(tmp_path / "diverged.safetensors")
    write_safetensors(weights, fine_tuning.init_from)
    with pytest.raises(UserError, match=r"diverged\.safetensors: 1 of .* 'conv1\.weight' \(1 of"):
        start(fine_tuning)


def test_moving_averages_come_first(tmp_path, earlier_run):
    config = earlier_run[0].copy_and_resolve_references()
    config.ema_decay = 0.9
    run = create_experiment(config, ONE_DEVICE)
    state = run.create_state()
    state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
    save_run(config, state, tmp_path / "averaged")
    config.init_from = str(tmp_path / "averaged")
    started, description = start(config)
    assert description.endswith("at step 0, its moving averages.")
    assert_equal(started.params, state.ema["params"])
    assert_equal(started.collections["batch_stats"], state.ema["batch_stats"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "init_from_model='resnet50' .* which is empty"),
        ({"init_from_model": ""}, "say which of timm's networks it is of"),
        ({"init_from": "no.safetensors"}, "no.safetensors is not there"),
        ({"init_from_model": "resnet9000"}, "timm's 'resnet9000' has no counterpart"),
        ({"init_from_model": "resnetv2_50"}, "network is 'ResNetV1', not 'ResNet'"),
        ({"init_from_model": "resnet50d"}, "stem is 'imagenet', not 'imagenet_deep'"),
        ({"model.norm_act": "bn_silu"}, "'BatchNormSiLU', not 'BatchNormReLU'"),
        ({"model.fields.num_filters": 8}, r"resnet50.safetensors: .*\n.*\n?.* of another shape"),
        ({"init_from": "."}, "knows its network: leave config.init_from_model empty"),
        ({"init_from": ".", "init_from_model": ""}, "is not a run directory"),
    ],
)
def test_mistakes_leave_nothing_behind(fine_tuning, tmp_path, changes, message):
    for name, value in changes.items():
        fine_tuning.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        train_and_evaluate(fine_tuning, tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_network_is_refused(earlier_run):
    config, workdir = earlier_run
    config = config.copy_and_resolve_references()
    config.init_from = str(workdir)
    config.model.norm_act = "evonorm_s0"
    with pytest.raises(
        UserError, match="norm_act is 'evonorm_b0', that of the new run 'evonorm_s0"
    ):
        start(config)
    config.model.norm_act = "evonorm_b0"
    config.model.fields.num_filters = 16
    remedy = r"That run has --config.model.fields.num_filters=8\.$"
    with pytest.raises(UserError, match=rf"at step 1 is of another network: (?s:.*)\n{remedy}"):
        start(config)
