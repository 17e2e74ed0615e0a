"""Which code ran, and by which command: for whatever records a number."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path


def command() -> list[str]:
    """The command line of this process, the interpreter by its name alone."""
    return [Path(sys.executable).name, *sys.orig_argv[1:]]


@functools.cache
def code_digest() -> str:
    """Of the package's Python files: the same for the same code, committed or not."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str | None:
    """Commit of the code that runs, with `+changes` where the tree differs from it."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None  # not a checkout, or no git
