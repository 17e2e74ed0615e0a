"""Runs from beginning to end, in this process."""

import csv
import io
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from configs import recipes
from evonorm_jax.analysis import plot_run
from evonorm_jax.analysis import runs as analysis_runs
from evonorm_jax.analysis.confusion import read_confusion
from evonorm_jax.errors import UserError
from evonorm_jax.run_lock import lock_run
from evonorm_jax.training import TrainingDiverged, train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.evaluation import evaluate_checkpoint
from evonorm_jax.training.experiment import create_experiment

ONE_DEVICE = jax.devices()[:1]


def flip(file):
    """Changes one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def final_state(config, workdir, step=None):
    shapes = create_experiment(config).state_shapes()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore(shapes, step)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = recipes.smoke(recipes.digits("evonorm_b0"))
    config.ema_decay = 0.9
    workdir = tmp_path_factory.mktemp("runs") / "run"
    stream = io.StringIO()
    summary = train_and_evaluate(
        config, workdir, devices=ONE_DEVICE, progress_stream=stream, draw_curve=plot_run
    )
    return config, workdir, summary, stream.getvalue()


def test_a_finished_run_directory_is_complete(finished):
    _, workdir, summary, _ = finished
    names = {p.name for p in workdir.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "class_accuracy.csv",
        "classes.json",
        "config.json",
        "confusion_matrix.csv",
        "curve.png",
        "metadata.json",
        "metrics.jsonl",
        "parameters.txt",
        "summary.json",
    }
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert summary["steps"] == 8
    assert summary["eval/examples"] == 20
    assert {"eval/top1", "eval/top5", "eval_ema/loss"} <= summary.keys()
    assert (workdir / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_tables_of_classes_agree_with_the_accuracy(finished):
    _, workdir, summary, _ = finished
    names, counts = read_confusion(workdir / "confusion_matrix.csv")
    assert names == [str(digit) for digit in range(10)]
    # Fake labels go round: each class twice among 20 images.
    np.testing.assert_array_equal(counts.sum(1), 2)
    assert np.trace(counts) / 20 == pytest.approx(summary["eval_ema/top1"])
    with (workdir / "class_accuracy.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(np.diag(counts) / 2)
    assert [int(row["predictions"]) for row in rows] == counts.sum(0).tolist()


def test_metrics_are_one_row_per_event(finished):
    _, workdir, _, _ = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train] == list(range(1, 9))
    assert [row["step"] for row in rows if "eval/top1" in row] == [4, 8]
    assert all(np.isfinite(row["train/grad_norm"]) for row in train)
    assert train[-1]["epoch"] == 2


def test_progress_says_what_matters(finished):
    text = finished[3]
    assert "cifar_resnet20 with evonorm_b0: " in text
    assert "parameters, on 1 x cpu" in text
    assert "fake images (random pixels) in place of digits: 32 training images, batch 8" in text
    assert "batch 8 = 2 workers x 4 images" in text
    assert "compiling the training step" in text
    assert "8 steps (2 epochs), 2 of them warm-up, to learning rate 0.00625" in text
    assert "epoch 2  eval/loss" in text


def test_a_finished_run_has_nothing_to_do(finished):
    config, workdir, summary, _ = finished
    stream = io.StringIO()
    again = train_and_evaluate(config, workdir, devices=ONE_DEVICE, progress_stream=stream)
    assert again == summary
    assert "is finished: 8 steps. Nothing to do." in stream.getvalue()


def test_evaluating_the_checkpoint_gives_the_same_metrics(finished):
    config, workdir, summary, _ = finished
    metrics = evaluate_checkpoint(config, workdir)
    assert metrics.pop("step") == 8
    assert metrics == pytest.approx({k: v for k, v in summary.items() if k in metrics}, rel=1e-4)


def test_evaluating_leaves_the_run_alone(finished):
    config, workdir, _, _ = finished
    before = sorted(p for p in workdir.rglob("*"))
    evaluate_checkpoint(config, workdir, step=4)
    assert sorted(p for p in workdir.rglob("*")) == before
    with pytest.raises(UserError, match=r"No checkpoint of step 5 .*\(there: 4, 8\)"):
        evaluate_checkpoint(config, workdir, step=5)


def test_the_analysis_reads_what_training_writes(finished):
    _, workdir, summary, _ = finished
    (run,) = analysis_runs.load_runs([workdir])
    assert run.summary == summary


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path, monkeypatch):
    config, workdir, summary, _ = finished
    interrupted = tmp_path / "run"
    stop_after = iter([False, False, True])
    monkeypatch.setattr(
        "evonorm_jax.training.loop.Preemption.requested",
        lambda self, step: next(stop_after, False),
    )
    stream = io.StringIO()
    assert train_and_evaluate(config, interrupted, devices=ONE_DEVICE, progress_stream=stream) == {}
    assert "saved step 3 of 8 and stopped" in stream.getvalue()
    assert not (interrupted / "summary.json").exists()
    resumed = train_and_evaluate(config, interrupted, devices=ONE_DEVICE, progress_stream=stream)
    assert "at step 3 of 8" in stream.getvalue()
    ignored = "train_seconds"
    assert {k: v for k, v in resumed.items() if k != ignored} == {
        k: v for k, v in summary.items() if k != ignored
    }
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(config, interrupted),
        final_state(config, workdir),
    )
    rows = [json.loads(line) for line in (interrupted / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 9))


def test_rows_between_two_checkpoints_are_those_of_an_unkilled_run(finished, tmp_path, monkeypatch):
    config, workdir, _, _ = finished
    config = config.copy_and_resolve_references()
    config.log_every_steps = 3  # 4, the step of the stop, is none of them
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 4
        )
        assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE) == {}
    train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    rows, single = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, workdir)
    )
    losses = [row["train/loss"] for row in single if "train/loss" in row]
    found = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert found == {
        last: sum(losses[first:last]) / (last - first) for first, last in ((0, 3), (3, 6), (6, 8))
    }


def test_a_signal_is_noted_between_steps(config, tmp_path, monkeypatch):
    from evonorm_jax.training.guard import NonFiniteGuard

    add = NonFiniteGuard.add

    def add_and_signal(self, step, metrics):
        add(self, step, metrics)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(NonFiniteGuard, "add", add_and_signal)
    stream = io.StringIO()
    assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE, progress_stream=stream) == {}
    assert "SIGTERM: saved step 2 of 8 and stopped" in stream.getvalue()
    assert final_state(config, tmp_path).step == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_divergence_stops_with_step_layer_and_checkpoint(config, tmp_path):
    config.optimizer.learning_rate_per_256 = 1e30
    config.schedule.warmup_epochs = 0.0
    config.checkpoint_every_steps = 1
    with pytest.raises(TrainingDiverged, match=r"at step \d .*evonorm_s0.*last good checkpoint is"):
        train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert np.all(np.isfinite(final_state(config, tmp_path).params["stem_conv"]["kernel"]))


def test_a_stop_on_an_evaluation_step_saves_first_and_evaluates_after_the_resume(
    finished, tmp_path, monkeypatch
):
    config, _, summary, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 4
        )
        assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE) == {}
    assert final_state(config, tmp_path).step == 4
    resumed = train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert resumed["eval/loss"] == summary["eval/loss"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/loss" in row] == [4, 8]


@pytest.mark.hostile
@pytest.mark.parametrize("text", ["", '{"eval/top1": "good"}'])
def test_a_damaged_summary_is_written_anew_from_the_checkpoint(finished, tmp_path, text):
    config, workdir, summary, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(text)
    again = train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
    assert again | {"train_seconds": 0} == summary | {"train_seconds": 0}
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == again


@pytest.mark.hostile
def test_a_second_start_is_refused_and_changes_nothing(finished):
    config, workdir, summary, _ = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with lock_run(workdir):
        locked = (workdir / ".lock").read_bytes()
        with pytest.raises(UserError, match=rf"is in use: process {os.getpid()} on .* --workdir"):
            train_and_evaluate(config, workdir, devices=ONE_DEVICE)
        after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
        assert after == before | {workdir / ".lock": locked}
    assert train_and_evaluate(config, workdir, devices=ONE_DEVICE) == summary


@pytest.mark.hostile
def test_a_damaged_checkpoint_is_not_trained_on(finished, tmp_path, caplog):
    config, workdir, summary, _ = finished
    damaged = tmp_path / "run"
    shutil.copytree(workdir, damaged)
    (damaged / "summary.json").unlink()
    (array,) = (damaged / "checkpoints" / "8" / "state" / "d").iterdir()
    flip(array)
    resumed = train_and_evaluate(config, damaged, devices=ONE_DEVICE)
    assert "the checkpoint of step 4 is taken" in caplog.text
    assert str(array.relative_to(damaged / "checkpoints" / "8")) in caplog.text
    assert resumed | {"train_seconds": 0} == summary | {"train_seconds": 0}
    jax.tree.map(
        np.testing.assert_array_equal, final_state(config, damaged), final_state(config, workdir)
    )
    names = sorted(p.name for p in (damaged / "checkpoints").iterdir())
    assert names == ["4", "8", "8.damaged"]


@pytest.mark.hostile
def test_without_a_whole_checkpoint_nothing_is_trained(finished, tmp_path):
    config, workdir, _, _ = finished
    damaged = tmp_path / "run"
    shutil.copytree(workdir, damaged)
    for step in ("4", "8"):
        flip(damaged / "checkpoints" / step / "state" / "manifest.ocdbt")
    before = {p: p.read_bytes() for p in (damaged / "checkpoints").rglob("*") if p.is_file()}
    for read in (
        lambda: train_and_evaluate(config, damaged, devices=ONE_DEVICE),
        lambda: evaluate_checkpoint(config, damaged),
    ):
        with pytest.raises(UserError, match=r"No checkpoint in .* is whole:(?s:.*)manifest.ocdbt"):
            read()
    assert before == {
        p: p.read_bytes() for p in (damaged / "checkpoints").rglob("*") if p.is_file()
    }


def test_a_streamed_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    config = recipes.smoke(recipes.imagenet_resnet("resnet50", "evonorm_s0"))
    assert not config.dataset.in_memory
    whole = train_and_evaluate(config, tmp_path / "whole", devices=ONE_DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 3
        )
        train_and_evaluate(config, tmp_path / "parts", devices=ONE_DEVICE)
    parts = train_and_evaluate(config, tmp_path / "parts", devices=ONE_DEVICE)
    assert parts["eval/loss"] == whole["eval/loss"]
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(config, tmp_path / "parts"),
        final_state(config, tmp_path / "whole"),
    )


@pytest.mark.parametrize("num_steps", [4, 2])  # the second ends inside the window
def test_profiling_writes_a_trace(config, tmp_path, num_steps):
    config.profile_start_step, config.profile_steps = 2, 2
    config.num_epochs, config.num_steps, config.schedule.warmup_epochs = 0.0, num_steps, 0.0
    train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.name": "resnet51"}, "unknown model: 'resnet51'"),
        ({"model.norm_act": "evonorm_s9"}, "unknown layer 'evonorm_s9'"),
        ({"model.norm_act_fields": {"momentum": 0.5}}, "unknown field of EvoNormS0 'momentum'"),
        ({"model.fields": {"deepness": 3}}, "deepness"),
        ({"model.name": "resnet50_v1", "model.fields": {}}, "resnet50"),
        ({"dtype": "float8"}, "config.dtype='float8'"),
        ({"images_per_worker": 64}, "batch of 128"),
        ({"gradient_accumulation_steps": 3}, "does not divide"),
        ({"ema_decay": 1.0}, "config.ema_decay=1.0"),
        ({"label_smoothing": -0.1}, "config.label_smoothing=-0.1"),
        ({"log_every_steps": 0}, "config.log_every_steps=0; it must be at least 1"),
        (
            {"early_stopping_patience": -1},
            "config.early_stopping_patience=-1; it must be at least 0",
        ),
        ({"num_workers": 3, "images_per_worker": 3, "mixup_alpha": 0.2}, "must be an even number"),
        ({"num_workers": 3, "images_per_worker": 3, "cutmix_alpha": 1.0}, "must be an even number"),
        ({"cutmix_alpha": -1.0}, "config.cutmix_alpha=-1.0"),
        (
            {"class_weights": (1.0, 0.0)},
            "config.class_weights=.* each item a finite number, above 0",
        ),
        ({"class_weights": (1.0, 2.0)}, "config.class_weights has 2 values, but digits has 10"),
        (
            {"class_weights": (1.0,) * 10, "balanced_classes": True},
            "config.class_weights and config.balanced_classes=True exclude",
        ),
        ({"metric_writers": ("nowhere:Writer",)}, "metric_writers names 'nowhere:Writer', which"),
        ({"metric_writers": ("json",)}, "not of the form 'package.module:Name'"),
        ({"metric_writers": ("json:__name__",)}, "which is no class or function"),
        ({"random_erasing": 1.5}, "config.random_erasing=1.5; it must be at least 0 and at most 1"),
        ({"dataset.source": "floppy"}, "floppy"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_written(config, tmp_path, fields, message):
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()


def test_accumulation_never_splits_a_workers_statistics(config, tmp_path):
    config.model.norm_act = "evonorm_b0"
    config.num_workers, config.images_per_worker = 1, 8
    config.gradient_accumulation_steps = 2
    with pytest.raises(UserError, match="would split the 8 images"):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)


def test_virtual_batches_belong_to_the_run(config, tmp_path):
    config.model.norm_act = "evonorm_b0"
    with config.unlocked():
        config.model.norm_act_fields.virtual_batch_size = 2
    with pytest.raises(UserError, match="is set by the run itself"):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
