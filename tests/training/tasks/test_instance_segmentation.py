"""A small detector on digit scenes trains, resumes, evaluates and is drawn by the one loop."""

import dataclasses
import io
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export as jax_export
from PIL import Image

from configs import detection_recipes
from evonorm_jax.analysis import plot_run
from evonorm_jax.analysis.precision_recall import read_precision_recall
from evonorm_jax.detection import Detections
from evonorm_jax.detection.coco_evaluation import average_precision
from evonorm_jax.detection.coco_masks import decode_mask
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import PRECISION_RECALL_FILE
from evonorm_jax.training import load_run, train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.evaluation import Evaluator, evaluate_checkpoint
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.export import export_program
from evonorm_jax.training.parallel import DataParallel
from evonorm_jax.training.run_directory import read_config
from evonorm_jax.training.saved_run import read_saved_run
from evonorm_jax.training.state import create_train_state
from evonorm_jax.training.tasks.instance_segmentation import InstanceSegmentation
from experiments import predict
from experiments.process import run_main

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

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


def test_precision_over_recall_has_the_average_precision(finished):
    _, workdir, summary, _ = finished
    curves = read_precision_recall(workdir / PRECISION_RECALL_FILE)
    means = {curve.kind: curve for curve in curves if not curve.category_id}
    assert len(curves) > 2  # those of the digits follow
    for kind in ("box", "mask"):
        for threshold in ("", "50", "75"):
            precision = means[kind].precision[f"precision{threshold}"]
            value = summary[f"eval/{kind}_ap{threshold}"]
            assert precision.mean() == pytest.approx(value, abs=1e-6)


def test_it_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    config, workdir, summary, _ = finished
    loss, traces = InstanceSegmentation._loss, []

    def counted(*args):
        traces.append(args)
        return loss(*args)

    monkeypatch.setattr(InstanceSegmentation, "_loss", counted)
    with monkeypatch.context() as patch:
        patch.setattr(
            "evonorm_jax.training.loop.Preemption.requested", lambda self, step: step == 2
        )
        assert train_and_evaluate(config, tmp_path, devices=ONE_DEVICE) == {}
    assert len(traces) == 1  # of two steps
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


def test_a_checkpoint_is_evaluated_on_other_devices(finished, tmp_path):
    _, workdir, summary, _ = finished
    config = read_config(workdir)
    config.eval_batch_size = 3  # over all eight devices
    metrics = evaluate_checkpoint(config, workdir, output=tmp_path)
    assert (metrics["step"], metrics["eval/examples"]) == (3, 10)
    for name in ("box_ap", "box_ap50", "box_ar100", "mask_ap"):
        assert metrics[f"eval/{name}"] == pytest.approx(summary[f"eval/{name}"], abs=1e-6)
    assert (tmp_path / PRECISION_RECALL_FILE).is_file()
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["0000003.png"]


class BrightCells(nn.Module):
    """Stands for a network: it finds the brightest cells of 16 x 16 pixels."""

    @nn.compact
    def __call__(self, images, valid_size):
        del valid_size
        n, size, _, _ = images.shape
        cells = images.reshape(n, size // 16, 16, size // 16, 48).mean(axis=(2, 4))
        scores, index = jax.lax.top_k(nn.sigmoid(cells.reshape(n, -1)), 60)
        corners = 16.0 * jnp.stack(jnp.divmod(index, size // 16), axis=-1)
        boxes = jnp.concatenate([corners, corners + 16], axis=-1)
        masks = jnp.full((n, 60, 28, 28), 255, jnp.uint8)
        return Detections(boxes, scores, jnp.ones_like(index), masks)


def test_every_image_counts_once_on_any_number_of_devices():
    config = detection_recipes.nuclei("bn_relu")
    config.dataset.eval_split = "val[:10]"
    pipeline = InstanceSegmentation.create_pipeline(config, evaluation_only=True)
    task = InstanceSegmentation(config, pipeline)
    task.model = BrightCells()
    state = create_train_state({"params": {}}, None)
    found = []
    for number, batch_size in itertools.product((1, 2, 8), (1, 3, 16)):
        parallel = DataParallel(jax.devices()[:number])
        evaluator = Evaluator(task, parallel, batch_size)
        found.append(evaluator(*map(parallel.replicate, (state, pipeline.resident()))))
    assert found[0]["eval/examples"] == 10
    assert min(found[0]["eval/mask_ap50"], found[0]["eval/box_ap50"]) > 0.01
    assert found == found[:1] * 9


@pytest.fixture(scope="module")
def pictures(finished, tmp_path_factory):
    """The evaluation split as files, and its truth."""
    config, _, _, _ = finished
    pipeline = InstanceSegmentation.create_pipeline(config, evaluation_only=True)
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(10):
        Image.fromarray(pipeline.eval_picture(index)).save(folder / f"{index:02d}.png")
    return folder, pipeline.truth


def predict_from_the_command_line(monkeypatch, *arguments):
    """Returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    try:
        run_main(predict.main)
    except SystemExit as error:
        return error.code
    return 0


def test_predicting_files_has_the_average_precision_of_the_evaluation(
    finished, pictures, tmp_path, monkeypatch, capsys
):
    _, workdir, summary, _ = finished
    folder, truth = pictures
    outputs = ("--json", tmp_path / "found.json", "--draw", tmp_path / "drawn")
    arguments = ("--workdir", workdir, folder, "--min_score=0.0", "--csv", tmp_path / "found.csv")
    arguments += ("--batch_size=2",)
    assert predict_from_the_command_line(monkeypatch, *arguments, *outputs) == 0
    assert f"draw  {tmp_path / 'drawn'}" in capsys.readouterr().out

    results = json.loads((tmp_path / "found.json").read_text())
    assert results[0]["file_name"] == str(folder / "00.png")
    ids = [image["id"] for image in truth["images"]]
    results = [record | {"image_id": ids[record["image_id"] - 1]} for record in results]
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        found = average_precision(truth, results, kind=kind, max_dets=(1, 10, 100))
        assert found[f"{prefix}_ap"] == pytest.approx(summary[f"eval/{prefix}_ap"], abs=1e-6)

    lines = (tmp_path / "found.csv").read_text().splitlines()
    assert lines[0] == "file,class,score,x,y,width,height"
    assert len(lines) == 1 + len(results)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        f"{index:02d}.png" for index in range(10)
    ]
    with Image.open(folder / "00.png") as plain, Image.open(tmp_path / "drawn/00.png") as drawn:
        enlarged = plain.resize(drawn.size, Image.Resampling.NEAREST)
        assert (np.asarray(enlarged) != np.asarray(drawn)).any()


def test_a_detector_in_use(finished, pictures, monkeypatch, capsys):
    _, workdir, _, _ = finished
    file = pictures[0] / "00.png"
    run = load_run(workdir)
    with Image.open(file) as picture:
        size = picture.size[::-1]
        larger = picture.resize([2 * side for side in picture.size], Image.Resampling.NEAREST)
    found, twice = run.predict([file, larger], min_score=0.0)
    assert found.masks.shape == (len(found.boxes), *size)
    assert found.names == [run.class_names[label] for label in found.classes]
    assert (np.diff(found.scores) <= 0).all()
    assert twice.masks.shape[1:] == (2 * size[0], 2 * size[1])
    # What the command line writes as JSON has the same masks.
    examples = [run.read(image) for image in (file, larger)]
    first, _ = run.describe(["a", "b"], [1, 2], examples, min_score=0.0)
    for record, mask in zip(first.records(), found.masks, strict=True):
        np.testing.assert_array_equal(decode_mask(record["segmentation"], size), mask)
    threshold = float(found.scores[0])
    best, _ = run.predict([np.asarray(larger)[::2, ::2], file], min_score=threshold)
    np.testing.assert_array_equal(best.boxes, found.boxes[found.scores >= threshold])
    none = run.predict([file, file], min_score=1.0)[0]
    assert none.masks.shape == (0, *size)
    with pytest.raises(UserError, match=r"An image is uint8 \[4, 4\]: expected uint8 \[H, W, 3\]"):
        run.predict([np.zeros((4, 4), np.uint8)])
    assert predict_from_the_command_line(monkeypatch, "--workdir", workdir, file, "--top_k=2") == 2
    assert "have --min_score; leave it out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The run, the file and what is said of it."""
    run, file = load_run(finished[1]), tmp_path_factory.mktemp("exported") / "net.jaxexport"
    return run, file, export_program(run, file, platforms=("cpu",))


def test_a_detector_is_exported_for_any_number_of_images(exported):
    _, file, about = exported
    assert about["inputs"]["images"] == {"shape": ["batch", 64, 64, 3], "dtype": "uint8"}
    assert about["inputs"]["valid_size"] == {"shape": ["batch", 2], "dtype": "int32"}
    assert about["outputs"]["boxes"] == {"shape": ["batch", 8, 4], "dtype": "float32"}
    assert jax_export.deserialize(bytearray(file.read_bytes())).platforms == ("cpu",)


@pytest.mark.slow
def test_an_exported_detector_finds_the_same(exported, pictures):
    run, file, _ = exported
    program = jax_export.deserialize(bytearray(file.read_bytes()))
    files = [pictures[0] / f"{index:02d}.png" for index in range(2)]
    examples = [run.read(file) for file in files]
    images, sizes = (np.stack([e[name] for e in examples]) for name in ("image", "valid_size"))
    found = program.call(images, sizes)
    for i, expected in enumerate(run.predict(files, min_score=0.0)):
        kept = np.asarray(found["scores"][i]) >= 0
        np.testing.assert_allclose(found["scores"][i][kept], expected.scores, rtol=1e-4, atol=1e-6)


def test_a_detector_from_before_there_was_a_file_of_classes(finished, tmp_path):
    saved = dataclasses.replace(read_saved_run(finished[1]), classes=None)
    with pytest.raises(UserError, match=r"classes\.json is missing.* Start its training command"):
        InstanceSegmentation.trained_run(saved)
    saved = dataclasses.replace(saved, classes={"class_names": ["background", "digit"]})
    with pytest.raises(UserError, match="does not say what the classes are"):
        InstanceSegmentation.trained_run(saved)


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
        ("init_from", "weights.safetensors", r"is not there: name a run .*init_from_model"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, field, value, message):
    config = small_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, tmp_path / "run", devices=ONE_DEVICE)
    assert not (tmp_path / "run").exists()
