"""What the documents promise exists, and their examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/search.md", "docs/detection.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_modules_that_are_named_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"\b(?:configs|experiments|evonorm_jax|tests)/[\w/]+\.\w+", text))
    modules = re.findall(r"python -m (experiments\.\w+)|`(experiments\.\w+)`", text)
    named |= {(first or second).replace(".", "/") + ".py" for first, second in modules}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_are_named_exist(document):
    targets = re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / document).read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_the_python_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_rows_that_are_quoted_stand_in_the_results():
    """Or the README would show numbers that nobody measured."""
    text = (ROOT / "README.md").read_text()
    quoted = re.findall(r"<!-- rows of (\S+) -->\n((?:\|.*\n)+)", text)
    assert quoted
    for path, table in quoted:
        known = set((ROOT / path).read_text().splitlines())
        assert [row for row in table.splitlines() if row not in known] == []
