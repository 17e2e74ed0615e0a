"""What the documents promise exists, and their examples run."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evonorm_jax.analysis import paper
from experiments import launch
from tests import test_rooms

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES)
FILE = r"\b(?:configs|docs|evonorm_jax|experiments|notebooks|results|tests)/[\w/-]+\.\w+"
# These examples write files, and tests/search/test_document.py runs them in a folder of their own.
RUN_ELSEWHERE = ("docs/layer_search.md",)


def read(document):
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", read(document), re.DOTALL)


def commands(document):
    """The commands of a document as `(module, arguments)`."""
    indented = re.findall(r"(?m)(?:^    .*\n)+", read(document))
    shell = "\n".join((*blocks(document, "bash"), *indented)).replace("\\\n", " ")
    for line in re.findall(r"python -m (experiments\..*)", shell):
        if line.count('"') % 2:  # the last one ends a command that holds this one
            line = line.rstrip('"')
        module, *arguments = shlex.split(line, comments=True)
        yield module, arguments


def headings(document):
    """The targets that GitHub and MyST give to the headings of a document."""
    text = re.sub(r"```.*?```", "", read(document), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_modules_that_are_named_exist(document):
    text = read(document)
    named = set(re.findall(FILE, text))
    modules = re.findall(r"python -m (experiments\.\w+)|`(experiments\.\w+)`", text)
    named |= {(first or second).replace(".", "/") + ".py" for first, second in modules}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    broken = []
    prose = re.sub(r"```.*?```", "", read(document), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://", link):
            continue
        path, _, target = link.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists() or (target and target not in headings(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_are_named_exist(document):
    targets = re.findall(r"(?:^|`)make ([\w-]+)", read(document), re.MULTILINE)
    makefile = read("Makefile")
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_have_flags_and_fields_that_exist(document):
    for module, arguments in commands(document):
        source = read(module.replace(".", "/") + ".py") + read("experiments/launch.py")
        flags = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        fields = [flag for flag in flags if flag.startswith("--config.")]
        assert [f for f in flags if f not in fields and f'"{f}"' not in source] == [], module
        if module == "experiments.train" and "--config" in arguments:
            overrides = [a for a in arguments if a.startswith("--config.")]
            launch.parse_config(arguments[arguments.index("--config") + 1], overrides)


def test_there_are_commands_to_check():
    assert len(list(commands("README.md"))) >= 5
    assert len(list(commands("docs/training.md"))) >= 10


def test_the_python_examples_run(tmp_path):
    """All documents in one process, each with names of its own."""
    examples = {d: "\n".join(blocks(d, "python")) for d in DOCUMENTS if d not in RUN_ELSEWHERE}
    examples = {document: code for document, code in examples.items() if code}
    assert {"README.md", "docs/weights.md", "docs/sweeps.md"} <= set(examples)
    program = "\n".join(
        f"exec(compile({code!r}, {document!r}, 'exec'), {{'__name__': '__main__'}})"
        for document, code in examples.items()
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_rows_that_are_quoted_stand_in_the_results(document):
    """Or the document would show numbers that nobody measured."""
    text = read(document)
    quoted = re.findall(r"<!-- rows of (\S+) -->\n((?:\|.*\n)+)", text)
    assert len(quoted) == len(re.findall(r"^<!-- rows of ", text, re.MULTILINE))
    assert quoted or document not in ("README.md", "docs/speed.md")
    for path, table in quoted:
        known = set(read(path).splitlines())
        assert [row for row in table.splitlines() if row not in known] == []


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 200


# ------------------------------------------------------------------------- the paper's numbers


def configs(pattern):
    names = sorted(path.stem for path in (ROOT / "configs").glob(f"{pattern}.py"))
    assert len(names) >= 10
    return names


def papers_number(config, table):
    """What the paper prints for a config in one of its tables; None where it has no number."""
    model, layer = config.model.name, config.model.norm_act
    if table == 2:
        return paper.IMAGENET.get(model, {}).get(layer)
    column = paper.BATCH_SIZE_IMAGES_PER_WORKER.index(config.images_per_worker)
    return dict(enumerate(paper.BATCH_SIZE.get(model, {}).get(layer, ()))).get(column)


@pytest.mark.parametrize("name", configs("imagenet_*"))
def test_the_docstrings_of_configs_have_the_papers_numbers(name):
    module = importlib.import_module(f"configs.{name}")
    config, sentence = module.get_config(), module.__doc__.partition("\nPaper: ")[2]
    numbers = {table: papers_number(config, table) for table in (2, 3)}
    if "no number" in sentence:
        assert set(numbers.values()) == {None}
        return
    stated, tables = re.match(r"(.+?) % top-1 \(arXiv v1, Tables? ([23 and]+)", sentence).groups()
    assert {numbers[int(table)] for table in re.findall(r"\d", tables)} == {float(stated)}


@pytest.mark.parametrize("name", configs("coco_*"))
def test_the_docstrings_of_detectors_have_the_papers_numbers(name):
    module = importlib.import_module(f"configs.{name}")
    model, sentence = module.get_config().model, module.__doc__.partition("\nPaper: ")[2]
    row = paper.COCO.get(model.name, {}).get(model.norm_act)
    if "no number" in sentence:
        assert row is None
        return
    expected = f"box AP {row.box_ap} %, mask AP {row.mask_ap} % (arXiv v1, Table 4)."
    assert sentence.startswith(expected)


def test_the_readme_has_the_papers_numbers():
    text = re.sub(r"\s+", " ", read("README.md"))
    rows = re.findall(r"\| `configs/(imagenet_\w+)\.py` \| ([\d.]+) \|", text)
    assert len(rows) >= 5
    for name, stated in rows:
        config = importlib.import_module(f"configs.{name}").get_config()
        assert float(stated) in (papers_number(config, 2), papers_number(config, 3)), name
    s0, bn = (paper.BATCH_SIZE["resnet50"][layer] for layer in ("evonorm_s0", "bn_relu"))
    assert (
        f"going from 128 to 4 images per worker moves EvoNorm-S0 from {s0[0]} to {s0[-1]} % and "
        f"BN-ReLU from {bn[0]} to {bn[-1]} %"
    ) in text
    highest = max(paper.IMAGENET["resnet50"].values())
    assert highest == paper.IMAGENET["resnet50"]["evonorm_b0"]
    assert f"the paper's highest ResNet-50 ({highest} %)" in text


# ------------------------------------------------------------------------------------- the site


def test_the_architecture_has_every_room():
    rooms = read("docs/architecture.md").partition("## The rooms")[2].partition("## ")[0]
    names = {re.sub(r"^search/(?=\w)", "", room) for room in test_rooms.ROOMS}
    assert sorted(name for name in names if name not in rooms) == []


def test_the_reference_has_every_package():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "evonorm_jax").glob("*/**/__init__.py")
        if "__all__ = " in path.read_text()
    }
    assert sorted(packages - documented) == [], "docs/api/ needs a page for each"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the site needs the `docs` extra")
    pytest.importorskip("myst_parser", reason="the site needs the `docs` extra")
    command = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "html")],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    layers = (tmp_path / "html" / "api" / "layers.html").read_text(encoding="utf-8")
    assert 'id="evonorm_jax.layers.EvoNormS0"' in layers
    for page in PAGES:  # Sphinx has pages of its own, such as search.html
        html = (tmp_path / "html" / Path(page).name).with_suffix(".html").read_text("utf-8")
        title = re.search(r"^# (.+)$", read(page), re.MULTILINE)[1]
        assert f"<h1>{title}<" in html, page
