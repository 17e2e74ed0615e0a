"""The classifier of a run in use: the numbers of its evaluation, from files, pictures, arrays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import evonorm_jax
from evonorm_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(trained_run):
    return evonorm_jax.load_run(trained_run.workdir)


def evaluation_files(trained_run):
    files = sorted((trained_run.images / "val").glob("*/*.jpg"))
    return files, [file.parent.name for file in files]


def test_classes_json(trained_run):
    record = json.loads((trained_run.workdir / "classes.json").read_text())
    assert record == {
        "class_names": ["ant", "bee", "cat"],
        "num_classes": 3,
        "dtype": "float32",
        "image_size": 8,
        "resize_size": 10,
        "channels": 3,
        "mean": [120, 125, 130],
        "std": [60, 65, 70],
        "resize_method": "bicubic",
        "antialias": True,
        "upright": True,
    }


@pytest.mark.parametrize(("newest_weights", "part"), [(False, "eval_ema"), (True, "eval")])
def test_predictions_have_the_loss_and_accuracy_of_the_evaluation(
    trained_run, newest_weights, part
):
    run = evonorm_jax.load_run(trained_run.workdir, newest_weights=newest_weights)
    files, names = evaluation_files(trained_run)
    found = run.predict(files, top_k=2, batch_size=4)  # 4, 4 and 3 images
    labels = [run.class_names.index(name) for name in names]
    of_truth = found.probabilities[np.arange(len(files)), labels]
    assert -np.log(of_truth).mean() == pytest.approx(trained_run.summary[f"{part}/loss"], rel=1e-5)
    hits = [top[0] == name for top, name in zip(found.top_names, names, strict=True)]
    assert np.mean(hits) == pytest.approx(trained_run.summary[f"{part}/top1"])


def test_the_best_classes_come_first(run, trained_run):
    found = run.predict(evaluation_files(trained_run)[0][:4], top_k=2)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-6)
    order = np.argsort(-found.probabilities, axis=-1)[:, :2]
    np.testing.assert_array_equal(found.top_classes, order)
    np.testing.assert_array_equal(found.top_probabilities[:, 0], found.probabilities.max(-1))
    assert found.top_names == [[run.class_names[i] for i in row] for row in order]
    assert run.predict(np.zeros((1, 8, 8, 3)), top_k=9).top_classes.shape == (1, 3)


def test_every_kind_of_image(run, trained_run):
    files = evaluation_files(trained_run)[0][:4]
    expected = run.predict(files).probabilities
    pixels = np.stack([run.read(file) for file in files])
    assert pixels.dtype == np.uint8
    for images in (pixels, pixels.astype(np.float32), jax.numpy.asarray(pixels)):
        np.testing.assert_allclose(run.predict(images).probabilities, expected, rtol=1e-5)
    with Image.open(files[0]) as picture:
        one = run.predict(picture).probabilities
    np.testing.assert_allclose(one, expected[:1], rtol=1e-5)
    np.testing.assert_allclose(run.predict(str(files[1])).probabilities, expected[1:2], rtol=1e-5)


def test_features_are_the_input_of_the_last_layer(run, trained_run):
    files = evaluation_files(trained_run)[0][:4]
    features, head = run.features(files), run.variables["params"]["head"]
    assert (features.shape[0], features.dtype) == (4, np.float32)
    logits = features @ head["kernel"] + head["bias"]
    expected = run.predict(files).probabilities
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-4)


def test_without_tensorflow_and_data(run, trained_run, tmp_path):
    """In a process of its own, with the run directory and an image alone."""
    shutil.copytree(trained_run.workdir, tmp_path / "run")
    file = evaluation_files(trained_run)[0][0]
    shutil.copy(file, tmp_path)
    code = """if True:
        import sys
        missing = "clu", "tensorflow", "tensorflow_datasets"
        sys.modules.update(dict.fromkeys(missing))  # None: importing them fails
        import evonorm_jax
        run = evonorm_jax.load_run(sys.argv[1])
        print(*run.class_names, run.step, *run.predict(sys.argv[2]).probabilities[0])
    """
    arguments = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / file.name)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        arguments, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *names, step = done.stdout.split()[:4]
    assert (names, step) == (["ant", "bee", "cat"], "4")
    probabilities = np.array(done.stdout.split()[4:], float)
    np.testing.assert_allclose(probabilities, run.predict(file).probabilities[0], rtol=1e-5)


def without_checkpoints(trained_run, folder):
    shutil.copytree(
        trained_run.workdir, folder, ignore=shutil.ignore_patterns("checkpoints", "events*")
    )
    return folder


def test_a_run_from_before_there_was_a_file_of_classes(run, trained_run, tmp_path):
    folder = without_checkpoints(trained_run, tmp_path / "old")
    (folder / "classes.json").unlink()
    (folder / "checkpoints").symlink_to(trained_run.workdir / "checkpoints")
    old = evonorm_jax.load_run(folder)
    assert old.class_names == ("0", "1", "2")
    assert old.preprocessing == run.preprocessing


def test_runs_that_cannot_be_loaded(trained_run, tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory: it has no config\.json"):
        evonorm_jax.load_run(tmp_path)
    with pytest.raises(UserError, match="No checkpoint of step 3"):
        evonorm_jax.load_run(trained_run.workdir, step=3)
    folder = without_checkpoints(trained_run, tmp_path / "early")
    with pytest.raises(UserError, match="early has no finished checkpoint yet"):
        evonorm_jax.load_run(folder)
    (folder / "checkpoints").symlink_to(trained_run.workdir / "checkpoints")
    record = json.loads((folder / "classes.json").read_text())
    for change, message in (
        ({"class_names": ["ant"]}, "has 1 names, but the network 3 classes"),
        ({"mean": None}, "early/classes.json does not say how images are prepared"),
    ):
        (folder / "classes.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(UserError, match=message):
            evonorm_jax.load_run(folder)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "There are no images"),
        (np.zeros((0, 8, 8, 3)), {}, "There are no images"),
        (np.zeros((1, 8, 8, 3)), {"top_k": 0}, "top_k=0: it must be at least 1"),
        (np.zeros((1, 8, 8, 3)), {"batch_size": 0}, "batch_size=0: it must be at least 1"),
        (["nothing.jpg"], {}, "There is no file 'nothing.jpg'"),
        (np.ones((1, 8, 8, 3)), {}, "values from 1 to 1: expected pixel values from 0 to 255"),
    ],
)
def test_images_that_are_none(run, images, options, message):
    with pytest.raises(UserError, match=message):
        run.predict(images, **options)


def test_tasks_without_anything_to_predict(run):
    from tests.training.tasks.regression import Regression

    with pytest.raises(UserError, match="whose networks cannot be loaded"):
        Regression.trained_run(run)
    from evonorm_jax.training.tasks.image_synthesis import ImageSynthesis

    with pytest.raises(UserError, match=r"python -m experiments\.sample"):
        ImageSynthesis.trained_run(run)
