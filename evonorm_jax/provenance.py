"""The code, the command and the machine behind a number, for everything that records numbers."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import evonorm_jax


def command() -> list[str]:
    """Returns the command line of this process, with the interpreter's name but not its folder."""
    return [Path(sys.executable).name, *sys.orig_argv[1:]]


@functools.cache
def code_digest() -> str:
    """Returns 16 hexadecimal digits of a SHA-256 digest of the package's Python files.

    The digest is the same for the same code, committed or not.
    """
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str | None:
    """Returns the commit of the code that runs, or None without git or a checkout.

    The suffix `+changes` says that tracked files differ from the commit. Those in `results/` do not
    count, because a record is written there while the code runs.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "-uno", "--", ".", ":(exclude)results")
        return commit + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None  # not a checkout, or no git


def now() -> str:
    """Returns the time in UTC to the second, such as `2026-01-02T03:04:05+00:00`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of this package, of Python and of those packages that are installed.

    It imports none of them.
    """
    found = {"evonorm_jax": evonorm_jax.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Returns the cores that this process may use and their kind, such as `2 x AMD EPYC`."""
    return f"{num_cores()} x {processor()}"


def processor() -> str:
    """Returns the processor's model as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(cores())
