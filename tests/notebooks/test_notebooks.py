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
SLOW = {"06_image_synthesis", "07_instance_segmentation"}  # assert what minutes of training reach

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


# Parts of the source of a notebook, and what stands there where the notebooks run in short. None
# of them has an assertion on what these parts train.
ONE_EPOCH = {
    "config.num_epochs = 3.0": "config.num_epochs, config.schedule.warmup_epochs = 1.0, 0.5"
}
SHORTER = {
    "02_batch_size": {"(32, 8, 2)": "(32, 2)", "_epochs = 2.0": "_epochs = 1.0"},
    "04_read_results": ONE_EPOCH,
    # Four layers are drawn at random; evolution makes two more of them.
    "05_layer_search": {
        "num_steps=60": "num_steps=20",
        "num_scored=12": "num_scored=6",
        **ONE_EPOCH,
    },
}
RUN_ALL = """if True:
    import pathlib, sys
    from matplotlib import pyplot
    sys.path.insert(0, "notebooks")
    import render
    folder, *notebooks = map(pathlib.Path, sys.argv[1:])
    for notebook in notebooks:
        print(f"#### {notebook}", flush=True)
        render.render(notebook, folder)
        pyplot.close("all")
    assert "tensorflow" not in sys.modules
"""


def run_without_warnings(folder, *arguments, **variables):
    """Runs Python in the root of the clone, with temporary files in `folder`."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(folder)} | variables,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_is_small_picture(path):
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < MAX_BYTES


def test_they_run_in_short_without_warnings_and_without_tensorflow(tmp_path):
    """One after the other in one process, with fewer and shorter trainings where they take long."""
    files = []
    for path in NOTEBOOKS:
        if path.stem in SLOW:
            continue
        source = path.read_text()
        for text, shorter in SHORTER.get(path.stem, {}).items():
            assert text in source
            source = source.replace(text, shorter)
        files.append(tmp_path / path.name)
        files[-1].write_text(source)
    assert len(files) == 5
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run_without_warnings(tmp_path, "-c", RUN_ALL, tmp_path, *files, **quickly)
    for file in files:
        assert_is_small_picture(file.with_suffix(".png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_whole_without_warnings_and_without_tensorflow(name, tmp_path):
    script = (
        f"import runpy, sys; sys.argv = ['render.py', {name!r}, '--output', {str(tmp_path)!r}]\n"
        "runpy.run_path('notebooks/render.py', run_name='__main__')\n"
        "assert 'tensorflow' not in sys.modules"
    )
    run_without_warnings(tmp_path, "-c", script)
    assert_is_small_picture(tmp_path / f"{name}.png")


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
