"""The lists of packages agree with each other, and the light parts stay light."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import evonorm_jax

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirement_lines(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {Requirement(line) for line in lines if line}


def constraints(python):
    pins = requirement_lines(ROOT / f"constraints-{python}.txt")
    return {canonicalize_name(pin.name): pin.specifier for pin in pins}


def test_requirements_txt_is_core_train_and_data():
    declared = PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["data"]
    assert requirement_lines(ROOT / "requirements.txt") == set(map(Requirement, declared))


def test_hints_install_from_a_clone():
    """No index has the package, so `pip install 'evonorm-jax[...]'` would find nothing."""
    hints = re.compile(r"evonorm[-_]jax\[")
    files = [*ROOT.glob("evonorm_jax/**/*.py"), *ROOT.glob("experiments/*.py"), ROOT / "README.md"]
    files += ROOT.glob("docs/**/*.md")
    assert [file.name for file in files if hints.search(file.read_text("utf-8"))] == []


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_constraints_pin_everything_that_ci_installs(python):
    pins = constraints(python)
    assert all(re.fullmatch(r"==[\w.]+", str(specifier)) for specifier in pins.values())
    declared = PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["data"] + EXTRAS["dev"]
    declared += EXTRAS["detection"] + EXTRAS["docs"]
    environment = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
    for requirement in map(Requirement, declared + EXTRAS["test"]):
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        if requirement.name != PROJECT["name"]:
            (pin,) = pins[canonicalize_name(requirement.name)]
            assert Version(pin.version) in requirement.specifier, requirement


def test_the_version_can_be_read_without_importing_the_package():
    # setuptools reads a literal from the source; anything else would import jax while building.
    tree = ast.parse((ROOT / "evonorm_jax" / "__init__.py").read_text())
    literals = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert literals == [evonorm_jax.__version__]
    assert str(Version(evonorm_jax.__version__)) == evonorm_jax.__version__


def test_the_version_is_the_newest_of_the_changelog_and_the_citation():
    version = re.escape(evonorm_jax.__version__)
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == evonorm_jax.__version__
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


def test_the_layers_need_jax_and_flax_alone():
    heavy = {"clu", "matplotlib", "ml_collections", "tensorflow"}
    code = f"import evonorm_jax, sys; print(sorted({heavy!r} & sys.modules.keys()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gpu_measurements_and_training_start_without_clu_and_tensorflow():
    """As on a bare machine with an accelerator; only a config file brings ml_collections in."""
    code = """if True:
        import sys
        missing = "clu", "ml_collections", "safetensors", "tensorflow", "tensorflow_datasets"
        sys.modules.update(dict.fromkeys(missing))  # None: importing them fails
        import experiments.benchmark, experiments.launch, experiments.train
        import evonorm_jax.models, evonorm_jax.training
        from evonorm_jax.benchmarks import gpu, layers, train_step
        pipeline = train_step.made_up_images(*train_step.QUICK_WORKLOADS)
        print(pipeline.num_train_examples)
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "16", done.stderr


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(tmp_path, *arguments):
    command = ["make", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", *arguments]
    # `make test` runs this test, and its own flags and variables must not reach the inner make.
    outer = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "PYTHON")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@needs_make
def test_make_refuses_a_python_that_is_too_old(tmp_path):
    old_python = tmp_path / "python3"
    old_python.write_text("#!/bin/sh\n[ $1 = -V ] && echo Python 3.9.2 || exit 1\n")
    old_python.chmod(0o755)
    done = make(tmp_path, "quickstart", f"PYTHON={old_python}")
    assert done.returncode == 2
    assert "Python >= 3.11 is needed" in done.stderr
    assert "is Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_make_refuses_a_python_that_is_not_there(tmp_path):
    done = make(tmp_path, "test", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert "'no-such-python' does not run" in done.stderr


@needs_make
def test_make_names_its_targets(tmp_path):
    done = make(tmp_path)
    assert done.returncode == 0
    for target in ("quickstart", "test", "test-slow", "lint", "clean"):
        assert f"make {target} " in done.stdout
