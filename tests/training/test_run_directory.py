import json
import shutil
from pathlib import Path

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import read_summary
from evonorm_jax.training import run_directory, train_and_evaluate
from evonorm_jax.training.evaluation import evaluate_checkpoint
from evonorm_jax.training.experiment import create_experiment


@pytest.fixture
def opened(tmp_path, config):
    workdir = tmp_path / "run"
    run_directory.open_run_directory(workdir, create_experiment(config), first_process=True)
    return workdir


def test_config_and_metadata_say_how_the_run_was_made(opened, config):
    read = run_directory.read_config(opened)
    assert json.loads(read.to_json()) == json.loads(config.to_json())
    (start,) = json.loads((opened / "metadata.json").read_text())["starts"]
    assert start["versions"].keys() >= {"jax", "flax", "optax", "evonorm_jax", "python"}
    assert start["devices"] == "8 x cpu"
    assert start["resolved"]["batch_size"] == 8
    assert start["resolved"]["num_steps"] == 8


def test_every_start_is_noted(opened, config):
    run_directory.open_run_directory(opened, create_experiment(config), first_process=True)
    assert len(json.loads((opened / "metadata.json").read_text())["starts"]) == 2


@pytest.mark.hostile
@pytest.mark.parametrize("text", ["", "[]", '{"starts": 3}', "[" * 100_000, "\0"])
def test_damaged_metadata_are_kept_and_begun_anew(opened, config, caplog, text):
    (opened / "metadata.json").write_text(text)
    run_directory.open_run_directory(opened, create_experiment(config), first_process=True)
    assert len(json.loads((opened / "metadata.json").read_text())["starts"]) == 1
    assert (opened / "metadata.json.damaged").read_text() == text
    assert f"{opened / 'metadata.json'} is damaged" in caplog.text


@pytest.mark.hostile
@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"model": 1, "dataset": 1, "seed": 0, "dtype": ""}']
)
def test_a_damaged_config_is_refused_and_where_a_copy_is_said(opened, config, text):
    (opened / "config.json").write_text(text)
    for read in (
        lambda: run_directory.check_owner(opened, config),
        lambda: run_directory.read_config(opened),
    ):
        with pytest.raises(UserError, match=r"config\.json.* holds a copy: checkpoints/"):
            read()


def test_the_same_config_owns_the_directory(opened, config):
    run_directory.check_owner(opened, config)
    config.log_every_steps = 77  # only changes what is seen of the run
    run_directory.check_owner(opened, config)


def test_a_run_from_before_some_fields_existed_goes_on(opened, config):
    saved = json.loads((opened / "config.json").read_text())
    del saved["task"], saved["optimizer"]["learning_rate"], saved["optimizer"]["adam_beta1"]
    (opened / "config.json").write_text(json.dumps(saved))
    run_directory.check_owner(opened, config)
    read = run_directory.read_config(opened)
    assert (read.task, read.optimizer.learning_rate) == ("classification", 0.0)
    config.optimizer.learning_rate = 0.1  # which that run had not
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.0 there, 0.1 here"):
        run_directory.check_owner(opened, config)


def test_another_config_is_refused_with_the_differing_fields(opened, config):
    before = (opened / "config.json").read_text()
    config.seed = 5
    config.optimizer.momentum = 0.5
    with pytest.raises(UserError) as error:
        run_directory.check_owner(opened, config)
    assert "seed: 0 there, 5 here" in str(error.value)
    assert "optimizer.momentum: 0.9 there, 0.5 here" in str(error.value)
    assert "label_smoothing" not in str(error.value)
    assert (opened / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ant", "bee", "dog"], "cat gone, dog new"),
        (["ant", "bee"], "cat gone"),
        (["bee", "ant", "cat"], "the same in another order"),
    ],
)
def test_data_with_other_classes_are_refused(tmp_path, names, said):
    (tmp_path / "classes.json").write_text('{"class_names": ["ant", "bee", "cat"]}')
    with pytest.raises(UserError, match=rf"run in .* \(classes\.json\): {said}\. Name data with"):
        run_directory.check_classes(tmp_path, {"class_names": names})


def test_classes_that_have_no_names_are_not_compared(tmp_path):
    run_directory.check_classes(tmp_path, {"class_names": ["ant"]})
    for text in ('{"class_names": null}', '{"class_names": ["ant", "bee"]}', "damaged"):
        (tmp_path / "classes.json").write_text(text)
        run_directory.check_classes(tmp_path, {"class_names": None})
        run_directory.check_classes(tmp_path, None)


def test_neither_training_nor_evaluation_takes_other_classes(trained_run, tmp_path):
    """The labels of a renamed class would be others, in silence where their number is the same."""
    workdir = shutil.copytree(trained_run.workdir, tmp_path / "run")
    images = shutil.copytree(trained_run.images, tmp_path / "images")
    for split in ("train", "val"):
        (images / split / "ant").rename(images / split / "dog")
    config = run_directory.read_config(workdir)
    config.dataset.path = str(images)
    before = (workdir / "classes.json").read_bytes()
    for run in (evaluate_checkpoint, train_and_evaluate):
        with pytest.raises(UserError, match="ant gone, dog new"):
            run(config, workdir)
    assert (workdir / "classes.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path, config):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match=r"not a run directory .*thesis\.tex"):
        run_directory.check_owner(tmp_path, config)


def test_a_bucket_is_refused(config):
    with pytest.raises(UserError, match="Mount it"):
        run_directory.check_owner(Path("gs://bucket/run"), config)


def test_a_file_is_no_run_directory(tmp_path, config):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run_directory.check_owner(tmp_path / "run", config)


def test_an_unwritable_place_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_directory.open_run_directory(
            tmp_path / "file" / "run", create_experiment(config), first_process=True
        )


def test_reading_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"it has no config\.json"):
        run_directory.read_config(tmp_path)


def test_only_a_finished_run_has_a_summary(opened):
    assert read_summary(opened) is None
    run_directory.write_summary(opened, {"eval/top1": 0.5})
    assert read_summary(opened) == {"eval/top1": 0.5}
