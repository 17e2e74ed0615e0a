"""Drawing and measuring images of a run from the command line."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.errors import UserError
from evonorm_jax.training.trained_generator import load_generator
from experiments import gan_metrics, sample


@pytest.fixture(scope="module")
def workdir(synthesis_run):
    return synthesis_run[0]


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_every_output(workdir, tmp_path, monkeypatch, capsys):
    outputs = ("--sheet", tmp_path / "sheet.png", "--folder", tmp_path / "images")
    outputs += ("--npz", tmp_path / "images.npz")
    arguments = ("--classes", "7,2", "--count", 5, "--seed", 3, "--truncation", 0.5)
    run(sample, monkeypatch, "--workdir", workdir, *arguments, *outputs)
    assert "5 images of 2 classes, step 8:" in capsys.readouterr().out
    with np.load(tmp_path / "images.npz") as file:
        images, labels = file["images"], file["labels"]
    assert labels.tolist() == [7, 2, 7, 2, 7]
    expected = load_generator(workdir).samples_of(labels, truncation=0.5, seed=3)
    np.testing.assert_array_equal(images, expected)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"{i}_class{label}.png" for i, label in enumerate(labels)]
    with Image.open(tmp_path / "images" / names[1]) as file:
        np.testing.assert_array_equal(np.asarray(file), images[1, ..., 0])
    with Image.open(tmp_path / "sheet.png") as file:
        assert file.size == (3 * 33 - 1, 2 * 33 - 1)  # two classes of up to three images
        pixels = np.asarray(file)[::33, ::33]  # corners of the images
    corners = images[:, 0, 0, 0].tolist()
    assert pixels.tolist() == [corners[::2], [*corners[1::2], 255]]


def test_the_newest_weights_are_others(workdir):
    averages, newest = (
        load_generator(workdir, newest_weights=newest).samples_of(np.arange(10))
        for newest in (False, True)
    )
    assert not np.array_equal(averages, newest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--truncation", 0), "truncation is 0: it must be above 0 and at most 1"),
        (("--truncation", -0.5), "truncation is -0.5: it must be above 0"),
        (("--count", 0), "--count=0: it must be at least 1"),
        (("--classes", "3,10"), "class 10 is out of range; the generator knows 0 to 9"),
        (("--classes", "dog"), "--classes=dog: expected numbers joined by commas"),
        (("--sheet", "a.jpg"), "--sheet=a.jpg: name a file that ends in .png"),
        (("--step", 5), "No checkpoint of step 5"),
    ],
)
def test_bad_input(workdir, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(sample, monkeypatch, "--workdir", workdir, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.hostile
@pytest.mark.usefixtures("diverged_averages")
def test_weights_that_are_not_finite_draw_nothing(workdir):
    with pytest.raises(UserError, match=r"at step 8: .* not finite .* the first is 'params/"):
        load_generator(workdir)


@pytest.mark.parametrize("module", [sample, gan_metrics])
def test_a_run_of_another_task(module, tmp_path, monkeypatch):
    config = {"model": {}, "dataset": {}, "seed": 0, "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is a run of the task 'classification' and has no gen"):
        run(module, monkeypatch, "--workdir", tmp_path)


DIGITS = ("source=embedded", "num_classes=0", "num_train_examples=0", "num_eval_examples=0")


def test_measuring(workdir, tmp_path, monkeypatch, capsys):
    """The run's own samples, and the same ones from a file."""
    overrides = [f"--config.dataset.{field}" for field in DIGITS]
    overrides += ["--config.figures.network=digits", "--config.figures.num_samples=70"]
    run(gan_metrics, monkeypatch, "--workdir", workdir, *overrides)
    drawn = json.loads(capsys.readouterr().out)
    assert (drawn["step"], drawn["weights"], drawn["reference"]) == (8, "averages", "train")
    assert drawn["network"].startswith("classifier digits_classifier.npz ")
    assert (drawn["num_samples"], drawn["num_reference"], drawn["num_real"]) == (70, 1437, 360)
    assert drawn["classifier_fid"] > 10 * drawn["classifier_fid_real"] > 0

    images, labels = load_generator(workdir).samples(70)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    run(
        *(gan_metrics, monkeypatch, "--workdir", workdir, *overrides),
        *("--images", tmp_path / "images.npz"),
    )
    read = json.loads(capsys.readouterr().out)
    assert read["images"] == str(tmp_path / "images.npz")
    assert read["classifier_fid"] == drawn["classifier_fid"]


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"images": np.zeros((2, 8, 8, 1))}, "has images of float64 .2, 8, 8, 1. and labels"),
        ({"labels": np.zeros(3, int)}, r"labels of int64 \[3\], but must have uint8 and as many"),
        ({"labels": np.array([None, None])}, "expected an .npz file .* Python objects"),
        ({"images": np.zeros((2, 9, 9, 1), np.uint8)}, "has images of shape .9, 9, 1., but those"),
    ],
)
def test_images_of_a_file_are_checked(tmp_path, changes, message):
    path = tmp_path / "images.npz"
    arrays = {"images": np.ones((2, 8, 8, 1), np.uint8), "labels": np.array([3, 4])}
    np.savez(path, **arrays | changes)
    if message is None:
        for array, expected in zip(
            gan_metrics.read_images(str(path), (8, 8, 1)), arrays.values(), strict=True
        ):
            np.testing.assert_array_equal(array, expected)
        return
    with pytest.raises(UserError, match=message):
        gan_metrics.read_images(str(path), (8, 8, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "config.figures.network is empty: name what is to see the images"),
        (
            ("--config.figures.network=digits", "--config.figures.num_samples=60"),
            "num_samples=60 is not more than the 64 features of 'digits'",
        ),
        (
            ("--config.figures.network=digits", "--images", "nothing.npz"),
            "--images=nothing.npz: ex",
        ),
    ],
)
def test_what_cannot_be_measured(workdir, monkeypatch, arguments, message):
    with pytest.raises(UserError, match=message):
        run(gan_metrics, monkeypatch, "--workdir", workdir, *arguments)
