"""The commit that a record names."""

import importlib.util
import shutil
import subprocess

import pytest

from evonorm_jax import provenance


@pytest.fixture
def checkout(tmp_path):
    """A repository of its own with the module in it; returns its folder and its `git_commit`."""
    module = tmp_path / "evonorm_jax" / "provenance.py"
    record = tmp_path / "results" / "record.md"
    for path in (module, record):
        path.parent.mkdir()
    shutil.copy(provenance.__file__, module)
    record.write_text("first")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init"], ["add", "."], [*who, "commit", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
    spec = importlib.util.spec_from_file_location("provenance_copy", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return tmp_path, loaded.git_commit


def test_changes_of_records_are_not_changes_of_the_code(checkout):
    root, git_commit = checkout
    commit = git_commit()
    assert len(commit) == 40
    (root / "results" / "record.md").write_text("second")
    (root / "untracked.py").write_text("")
    assert git_commit() == commit
    (root / "evonorm_jax" / "provenance.py").write_text("")
    assert git_commit() == f"{commit}+changes"


def test_no_commit_outside_a_checkout(checkout):
    root, git_commit = checkout
    shutil.rmtree(root / ".git")
    assert git_commit() is None
