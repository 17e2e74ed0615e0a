"""Predicting from the command line: what is found, what is written, what is refused."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest

import evonorm_jax
from experiments import predict
from experiments.process import run_main


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory):
    """Four images, one of them in a folder, and a file that is none; hidden ones besides."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    (folder / ".thumbs").mkdir()
    sources = sorted((trained_run.images / "val" / "bee").glob("*.jpg"))
    for source, name in zip(sources, ("a.jpg", "b.JPG", "more/c.jpg", "d.jpg"), strict=True):
        shutil.copy(source, folder / name)
    shutil.copy(sources[0], folder / ".thumbs" / "a.jpg")
    shutil.copy(sources[0], folder / ".a.jpg")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def run(monkeypatch, *arguments):
    """Returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    try:
        run_main(predict.main)
    except SystemExit as error:
        return error.code
    return 0


def test_files_folders_and_globs_are_listed_once(folder):
    names = ("a.jpg", "b.JPG", "d.jpg", "more/c.jpg")
    assert predict.find_images([str(folder)]) == [str(folder / name) for name in names]
    named = [str(folder / "d.jpg"), f"{folder}/**/*.jpg", str(folder / "notes.txt")]
    expected = ["d.jpg", "a.jpg", "more/c.jpg", "notes.txt"]
    assert predict.find_images(named) == [str(folder / name) for name in expected]


def test_a_table(trained_run, folder, monkeypatch, capsys):
    files = sorted(folder.glob("[ab].*"))
    assert run(monkeypatch, "--workdir", trained_run.workdir, "--top_k=2", *files) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["file", "rank", "class", "index", "probability"]
    found = evonorm_jax.load_run(trained_run.workdir).predict(files, top_k=2)
    expected = []
    for i, file in enumerate(files):
        for rank in range(2):
            share = f"{100 * found.top_probabilities[i, rank]:.1f}"
            row = [str(file)] if rank == 0 else []
            row += [str(rank + 1), found.top_names[i][rank]]
            expected.append([*row, str(found.top_classes[i, rank]), share, "%"])
    assert [line.split() for line in lines] == expected


def test_json_and_csv(trained_run, folder, tmp_path, monkeypatch, capsys):
    outputs = ("--json", tmp_path / "found.json", "--csv", tmp_path / "found.csv")
    arguments = ("--workdir", trained_run.workdir, folder, *outputs, "--batch_size=2")
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out.split() == [str(word).strip("-") for word in outputs]
    files = predict.find_images([str(folder)])
    expected = evonorm_jax.load_run(trained_run.workdir).predict(files)
    records = json.loads((tmp_path / "found.json").read_text())
    assert [record["file"] for record in records] == files
    for i, record in enumerate(records):
        assert [one["class"] for one in record["predictions"]] == expected.top_names[i]
        probabilities = [one["probability"] for one in record["predictions"]]
        np.testing.assert_allclose(probabilities, expected.top_probabilities[i], rtol=1e-5)
    with (tmp_path / "found.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3
    assert list(rows[0]) == ["file", "rank", "class", "index", "probability"]
    assert [row["class"] for row in rows[:3]] == expected.top_names[0]
    # What is there is not replaced unless it is asked for.
    assert run(monkeypatch, *arguments) == 2
    assert "found.json is there already: name another file, or add" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--overwrite") == 0


def test_images_that_cannot_be_read_are_named_and_skipped(
    trained_run, folder, tmp_path, monkeypatch, capsys
):
    damaged = tmp_path / "broken.jpg"
    damaged.write_bytes((folder / "a.jpg").read_bytes()[:300])
    arguments = (folder / "a.jpg", damaged, folder / "notes.txt", "--json=-")
    assert run(monkeypatch, "--workdir", trained_run.workdir, *arguments) == 1
    out, err = capsys.readouterr()
    assert [record["file"] for record in json.loads(out)] == [str(folder / "a.jpg")]
    for path in (damaged, folder / "notes.txt"):
        assert f"predict: '{path}' cannot be read as an image" in err
    assert "predict: 2 of 3 images were skipped." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg"], "'nothing.jpg' is no file, no folder, and matches no images"),
        (["{empty}"], "empty' has no images: name files, globs, or folders with images"),
        (["{image}", "--top_k=0"], "--top_k=0: it must be at least 1"),
        (["{image}", "--min_score=0.5"], "--min_score: the networks of"),
        (["{image}", "--min_score=2"], "--min_score=2.0: it must be from 0 to 1"),
        (["{image}", "--draw={empty}/drawn"], "name what is in images and find no places in them"),
        (["{image}", "--draw={photos}"], "photos0 is not empty: name a new folder, or add --over"),
        (["{image}", "--draw={image}"], "a.jpg is a file: name a folder"),
        (["{image}", "--batch_size=0"], "--batch_size=0: it must be at least 1"),
        (["{image}", "--json=-", "--csv=-"], "cannot both go to the terminal"),
        (["{image}", "--json=no/found.json"], "--json=no/found.json: there is no folder no"),
        (["{image}", "--csv={empty}"], "is a folder: name a file"),
        (["{image}", "--step=3"], "No checkpoint of step 3"),
        (["{image}", "--workdir={empty}"], "is not a run directory"),
    ],
)
def test_mistakes_end_with_exit_code_2(
    trained_run, folder, tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "empty").mkdir()
    places = {"image": folder / "a.jpg", "empty": tmp_path / "empty", "photos": folder}
    given = [argument.format(**places) for argument in arguments]
    assert run(monkeypatch, "--workdir", trained_run.workdir, *given) == 2
    assert message in capsys.readouterr().err
