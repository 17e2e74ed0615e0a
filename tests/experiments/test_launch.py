import argparse
import signal
import sys

import pytest
from ml_collections import ConfigDict

from evonorm_jax.errors import UserError
from experiments import launch


def config():
    return ConfigDict(
        {
            "seed": 0,
            "rate": 0.5,
            "name": "a",
            "on": False,
            "fractions": (0.5,),
            "paths": (),
            "model": {"norm_act_fields": {}, "fields": {"depth": 8}},
        }
    )


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("seed=3", "seed", 3),
        ("rate=1", "rate", 1.0),
        ("rate=1e-3", "rate", 1e-3),
        ("name=7", "name", "7"),
        ("name=", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("on=true", "on", True),
        ("on=False", "on", False),
        ("fractions=(0.1, 0.2)", "fractions", (0.1, 0.2)),
        ("fractions=[0.1]", "fractions", (0.1,)),
        ("paths=stem_*,head", "paths", ("stem_*", "head")),
        ("paths=head=10", "paths", ("head=10",)),
        ("paths=('head=10',)", "paths", ("head=10",)),
        ("paths=", "paths", ()),
        ("model.fields.depth=14", "model.fields.depth", 14),
        ("model.norm_act_fields.num_groups=16", "model.norm_act_fields.num_groups", 16),
        ("model.fields={'depth': 20}", "model.fields.depth", 20),
    ],
)
def test_values_take_the_type_of_their_field(argument, field, value):
    changed = launch.override(config(), [f"--config.{argument}"])
    found = changed.to_dict()
    for part in field.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_a_value_may_follow_as_an_argument_of_its_own():
    assert launch.override(config(), ["--config.seed", "3"]).seed == 3


def test_the_result_is_locked():
    with pytest.raises(AttributeError):
        launch.override(config(), []).new_field = 1


@pytest.mark.parametrize("argument", ["seed=1.5", "seed=x", "on=2", "fractions=0.5", "rate=x"])
def test_values_of_another_type_are_refused(argument):
    with pytest.raises(UserError, match="is expected, such as"):
        launch.override(config(), [f"--config.{argument}"])


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed={[]:1}", "int is expected, such as 0."),
        ("seed=" + "[" * 5000, "int is expected"),
        ("seed=" + "9" * 5000, "int is expected"),
        ("rate=inf", "float is expected"),
        ("rate=1e999", "--config.rate=inf; it must be a finite number."),
        ("fractions=(0.1, 1e999)", "--config.fractions[1]=inf; it must be a finite number."),
        ("model={1: 2}", "--config.model has a field 1; names of fields are texts"),
        ("model={'a.b': 2}", "--config.model has a field 'a.b'; names"),
        ("model=3", "dict is expected"),
        ("model.fields={'a': {1, 2}}", "--config.model.fields.a={1, 2}; it must be a number"),
        ("model.fields.new=1j", "not complex."),
        ("seed.x=1", "config.seed is a value and has no fields."),
        ("=3", "config has no field ''."),
        ("", "config has no field ''."),
    ],
)
def test_hostile_values_are_one_short_message(argument, message):
    with pytest.raises(UserError) as caught:
        launch.override(config(), [f"--config.{argument}", "3"][: 1 + (argument == "")])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_path_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    fields = ConfigDict({"dataset": {"path": ""}, "init_from": "", "name": ""})
    overrides = ["--config.dataset.path=~/photos", "--config.init_from=~/r50", "--config.name=~/x"]
    changed = launch.override(fields, overrides)
    assert (changed.dataset.path, changed.init_from) == ("/home/me/photos", "/home/me/r50")
    assert changed.name == "~/x"


def test_hosts_are_joined_only_when_something_says_so(monkeypatch):
    calls = []
    monkeypatch.setattr(launch.jax.distributed, "initialize", lambda *a: calls.append(a))
    parser = argparse.ArgumentParser()
    launch.add_distributed_arguments(parser)
    launch.start_jax(parser.parse_args([]))
    assert calls == []
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    launch.start_jax(parser.parse_args([]))
    assert calls == [("10.0.0.1:1234", 4, 3)]
    launch.start_jax(parser.parse_args(["--process_id=2"]))
    assert calls[-1] == ("10.0.0.1:1234", 4, 2)


def test_slurm_tasks_find_each_other(monkeypatch):
    calls = []
    monkeypatch.setattr(launch.jax.distributed, "initialize", lambda *a: calls.append(a))
    parser = argparse.ArgumentParser()
    launch.add_distributed_arguments(parser)
    monkeypatch.setenv("SLURM_NTASKS", "2")  # a batch script, before srun
    launch.start_jax(parser.parse_args([]))
    assert calls == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    launch.start_jax(parser.parse_args([]))
    assert calls == [()]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: (folder / "file" / "figures").mkdir(), "file/figures: Not a directory. "),
        (lambda folder: (folder / "file").mkdir(), "file: File exists. Make room, or name"),
        (lambda folder: folder.write_text(""), "Is a directory"),
    ],
)
def test_what_cannot_be_written_is_one_message(write, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        launch.run_main(lambda: write(tmp_path))
    assert message in capsys.readouterr().err


def test_other_errors_of_the_system_are_not_the_users(tmp_path):
    with pytest.raises(FileNotFoundError):
        launch.run_main((tmp_path / "nowhere").read_text)


@pytest.mark.hostile
def test_an_interrupt_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["train"])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as error:
            launch.run_main(interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert error.value.code == 130
    assert capsys.readouterr().err == "\ntrain: interrupted; what was saved stays.\n"
