import argparse
import ast
from pathlib import Path

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


def test_a_switch_needs_no_value():
    """At the end and before another argument; a value after it counts."""
    changed = launch.override(config(), ["--config.on", "--config.seed", "-3"])
    assert (changed.on, changed.seed) == (True, -3)
    assert launch.override(config(), ["--config.seed=1", "--config.on"]).on is True
    assert launch.override(config(), ["--config.on", "false"]).on is False
    for arguments in (["--config.seed"], ["--config.seed", "--config.on"]):
        with pytest.raises(UserError, match=r"--config.seed needs a value: --config.seed=VALUE"):
            launch.override(config(), arguments)


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


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/data/cache", "/data/cache/evonorm_jax"),
        ("", "/home/me/.cache/evonorm_jax"),
        ("cache", "/home/me/.cache/evonorm_jax"),
        (None, "/home/me/.cache/evonorm_jax"),
    ],
)
def test_a_cache_folder_that_is_empty_or_relative_counts_as_unset(monkeypatch, variable, expected):
    monkeypatch.setenv("HOME", "/home/me")
    if variable is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert str(launch.cache_folder()) == expected


def test_a_folder_may_lie_in_the_home_folder(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=launch.user_path)
    assert str(parser.parse_args(["--workdir=~/x"]).workdir) == "/home/me/x"
    assert str(parser.parse_args(["--workdir=a~b"]).workdir) == "a~b"
    for value in ("", "~no_such_user/x"):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([f"--workdir={value}"])
    assert "it is empty; name a file or a folder" in capsys.readouterr().err


def test_every_path_may_lie_in_the_home_folder():
    """The shell leaves the ~ of --FLAG=~/folder as it is, whatever the flag."""
    found = []
    for file in sorted(Path(launch.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "add_argument":
                continue
            flag = getattr(node.args[0], "value", "--json")  # predict adds its three in a loop
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            metavar = options.get("metavar", "").strip("'")
            named = flag == "--workdir" or metavar.startswith(("FILE", "FOLDER", "DIR", "metavar"))
            if flag.startswith("--") and named and ":" not in metavar:  # --config has its own way
                found.append(f"{file.name} {flag}")
                assert options.get("type", "").endswith(("user_path", "expanduser")), found[-1]
    assert len(found) > 25
