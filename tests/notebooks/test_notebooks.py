"""The notebooks run from top to bottom, and what Colab opens is what runs here."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
NAMES = [path.stem for path in NOTEBOOKS]
COLAB = "https://colab.research.google.com/github/"
MAX_BYTES = 60_000  # of a figure in docs/figures
SLOW = {"06_image_synthesis", "07_instance_segmentation"}  # train for minutes

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def cells(path):
    """[(cell type, source)] of a percent script, without Jupytext."""
    parts = re.split(r"^# %%(.*)\n", path.read_text(), flags=re.MULTILINE)
    found = []
    for marker, source in zip(parts[1::2], parts[2::2], strict=True):
        kind = "markdown" if "[markdown]" in marker else "code"
        lines = source.strip("\n").split("\n")
        if kind == "markdown":
            assert all(line == "#" or line.startswith("# ") for line in lines), path
            lines = [line[2:] for line in lines]
        found.append((kind, "\n".join(lines)))
    return found


def test_there_are_seven():
    assert NAMES == [
        "01_layers",
        "02_batch_size",
        "03_train_your_own",
        "04_read_results",
        "05_layer_search",
        "06_image_synthesis",
        "07_instance_segmentation",
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES],
)
def test_it_runs_without_warnings_and_without_tensorflow(name, tmp_path):
    script = (
        f"import runpy, sys; sys.argv = ['render.py', {name!r}, '--output', {str(tmp_path)!r}]\n"
        "runpy.run_path('notebooks/render.py', run_name='__main__')\n"
        "assert 'tensorflow' not in sys.modules"
    )
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "XLA_FLAGS": "",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240 if name not in SLOW else 1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < MAX_BYTES


@each_notebook
def test_the_ipynb_has_the_same_cells_and_no_outputs(path):
    notebook = json.loads(path.with_suffix(".ipynb").read_text())
    written = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert written == cells(path), "run `make notebooks`"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_first_code_cell_is_the_same_everywhere():
    first = {next(source for kind, source in cells(path) if kind == "code") for path in NOTEBOOKS}
    (setup,) = first
    compile(setup, "setup", "exec")
    assert '"google.colab" in sys.modules' in setup


def test_the_first_code_cell_installs_in_colab_alone(monkeypatch):
    setup = next(source for kind, source in cells(NOTEBOOKS[0]) if kind == "code")
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(ROOT / "notebooks")

    exec(setup, variables := {})
    assert (commands, variables["ROOT"]) == ([], ROOT)

    monkeypatch.setitem(sys.modules, "google.colab", sys)
    with pytest.raises(ValueError, match="REPOSITORY"):
        exec(setup, {})
    exec(setup.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/r"'), {})
    clone, install = commands
    assert clone[:2] == ["git", "clone"]
    assert "https://example.org/r" in clone
    assert "/content/evonorm_jax[train]" in install


@each_notebook
def test_the_badge_opens_this_notebook(path):
    """In Colab's list of repositories, as long as pyproject.toml names no address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project.get("urls", {}).get("Repository", "")
    target = COLAB
    if address:
        target += (
            f"{address.removeprefix('https://github.com/')}/blob/main/notebooks/{path.stem}.ipynb"
        )
    kind, badge = cells(path)[0]
    assert kind == "markdown"
    assert re.findall(r"\]\((https://colab[^)\s]+)\)$", badge, re.MULTILINE) == [target]


@each_notebook
def test_the_page_of_notebooks_shows_it(path):
    page = (ROOT / "docs" / "notebooks.md").read_text()
    figure = f"figures/{path.stem}.png"
    assert f"(../notebooks/{path.stem}.ipynb)" in page
    assert f"({figure})" in page
    assert 1_000 < (ROOT / "docs" / figure).stat().st_size < MAX_BYTES
