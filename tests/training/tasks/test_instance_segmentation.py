"""A small detector on digit scenes trains, resumes, evaluates and is drawn by the one loop."""

import io
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs import detection_recipes
from evonorm_jax.analysis import plot_run
from evonorm_jax.errors import UserError
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.evaluation import evaluate_checkpoint
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.run_directory import read_config

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
pytestmark = pytest.mark.usefixtures("quick_compilation")

ONE_DEVICE = jax.devices()[:1]


def small_config():
    """A smoke run of three steps with two levels: compiling it is what takes the time."""
    config = detection_recipes.smoke(detection_recipes.nuclei("evonorm_b0"))
    config.model.fields.max_level = 3
    config.model.fields.score_threshold = 0.0
    config.model.fields.max_detections = 8
    config.dataset.num_train_examples = 24
    config.dataset.num_eval_examples = 10
    config.eval_batch_size = 8
    config.num_epochs = 1.0
    config.schedule.warmup_epochs = 0.0
    config.checkpoint_every_steps = 2
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Its config, the run directory, the summary and what was reported."""
    config, workdir = small_config(), tmp_path_factory.mktemp("detection") / "run"
    stream = io.StringIO()
    summary = train_and_evaluate(
        config, workdir, devices=ONE_DEVICE, progress_stream=stream, draw_curve=plot_run
    )
    return config, workdir, summary, stream.getvalue()


def final_variables(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.read_variables()[1]


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_and_says_what_it_has_measured(finished):
    _, workdir, summary, text = finished
    assert "maskrcnn_r18_fpn with evonorm_b0: " in text
    assert "eval/box_ap " in text
    assert "eval/box_ar100" not in text  # a detail
    losses = [f"train/{name}_loss" for name in ("rpn_score", "rpn_box", "class", "box", "mask")]
    training = [row for row in rows_of(workdir) if "train/loss" in row]
    assert len(training) == 3
    for row in training:
        assert row["train/loss"] == pytest.approx(sum(row[name] for name in losses), rel=1e-5)
    assert summary["eval/examples"] == 10
    assert 0 <= summary["eval/mask_ap"] <= summary["eval/mask_ap50"] <= 1


def test_pictures_show_truth_and_detections(finished):
    _, workdir, _, _ = finished
    with Image.open(workdir / "pictures" / "0000003.png") as image:
        assert image.size == (2 * 256 + 4, 4 * 256 + 3 * 4)
        truth, found = np.asarray(image)[:, :256], np.asarray(image)[:, 260:]
    assert (truth != found).any()


def test_it_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    config, workdir, summary, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 2
        )
        assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE) == {}
    resumed = train_and_evaluate(config, tmp_path, devices=ONE_DEVICE)
    assert resumed["eval/mask_ap"] == summary["eval/mask_ap"]
    jax.tree.map(np.testing.assert_array_equal, final_variables(tmp_path), final_variables(workdir))


def test_eight_devices_train_as_one(finished):
    """Images, anchors, regions and batch statistics alike: two workers of four images each."""
    config, workdir, _, _ = finished
    run = create_experiment(config, jax.devices())
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    batches = run.pipeline.train_batches(
        start_step=0, batch_size=run.images_per_step, hosts=run.parallel.hosts
    )
    _, metrics = run.train_step()(state, resident, run.parallel.shard(next(batches)))
    first = rows_of(workdir)[0]
    for name, value in metrics.items():
        assert float(value) == pytest.approx(first[f"train/{name}"], rel=1e-3), name


def test_every_image_counts_once_on_any_number_of_devices(finished):
    _, workdir, summary, _ = finished
    config = read_config(workdir)
    config.eval_batch_size = 3  # over all eight devices
    metrics = evaluate_checkpoint(config, workdir)
    assert (metrics["step"], metrics["eval/examples"]) == (3, 10)
    for name in ("eval/box_ap", "eval/mask_ap", "eval/box_ar8"):
        if name in summary:
            assert metrics[name] == pytest.approx(summary[name], abs=1e-6)


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"need faster-coco-eval.*\n.*\[detection\]"):
        train_and_evaluate(small_config(), tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset.image_size", 60, r"image_size=60 is no multiple of 8, .* take 64\.$"),
        ("ema_decay", 1.5, r"ema_decay=1\.5; it must be at least 0 and below 1"),
        ("max_dets", (0, 10), r"config\.max_dets=\(0, 10\): expected numbers of at least 1"),
        ("model.name", "maskrcnn_r51_fpn", r"maskrcnn_r51_fpn.*maskrcnn_r50_fpn"),
        ("dataset.digit_sizes", (16, 99), r"digit_sizes is \(16, 99\), but must be .* image_size"),
        ("init_from", "weights.safetensors", r"is no run directory.*init_from_model"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, field, value, message):
    config = small_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()
