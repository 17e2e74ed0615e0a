"""The files of runs and sweeps: their names, writing them whole, reading them whatever their state.

A run may be killed while it writes, and is read while it writes. So files are replaced whole, and
readers of JSON lines take what is complete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evonorm_jax.errors import UserError

CONFIG_FILE = "config.json"  # the resolved config
METADATA_FILE = "metadata.json"  # what the metrics mean; versions, commit, devices of every start
CLASSES_FILE = "classes.json"  # names of the classes, and how images are prepared for the network
METRICS_FILE = "metrics.jsonl"  # one object per event
SUMMARY_FILE = "summary.json"  # the final numbers; there once the run is finished
CURVE_FILE = "curve.png"
SWEEP_FILE = "sweep.jsonl"  # in the folder of a sweep: its starts and ends
REPORT_FILES = ("README.md", "report.md")  # the second where the first is somebody else's

# The last line of a report; who deletes it keeps the file.
_REPORT_MARK = "<!-- Written by evonorm_jax, which replaces this file while this line stands. -->"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, which takes the place of `path` at the end of the block.

    The content is on disk before the name is: a power failure leaves the old file or the new one.
    After an exception `path` is what it was before, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # as where the whole folder has been removed
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say so like this
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run directory.

    Raises:
      UserError: The file is damaged, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"'{path}' is not valid JSON ({error}); is it from a training run?"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must hold a JSON object, not {type(content).__name__}.")
    return content


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run that may be starting; `{}` where it is missing or incomplete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content as JSON gives it back.

    >>> as_json({"stage_sizes": (3, 4)})
    {'stage_sizes': [3, 4]}
    """
    return json.loads(json.dumps(content))


class JsonLine(NamedTuple):
    """One line of a file of JSON lines.

    Attributes:
      number: Its number, from 1.
      text: What stands in it, without the line break.
      row: The object that it holds; None where a kill has cut the line short.
    """

    number: int
    text: str
    row: dict[str, Any] | None


def read_json_lines(path: Path, *, last_bytes: int | None = None) -> Iterator[JsonLine]:
    """Reads a file of JSON lines that may have been cut short, or may still be written.

    Args:
      path: The file; without one there are no lines.
      last_bytes: Reads the end of the file alone. Then lines are numbered from there, and the
        first one may be incomplete.

    Yields:
      Every line that is not blank.
    """
    try:
        with path.open("rb") as stream:
            if last_bytes is not None:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - last_bytes))
            content = stream.read()
    except FileNotFoundError:
        return
    # Not `splitlines`: JSON may hold line separators that are no line breaks of the file.
    for number, text in enumerate(content.decode(errors="replace").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        yield JsonLine(number, text, row if isinstance(row, dict) else None)


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Appends one object in one write, so that several processes do not mix their lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def report_path(folder: Path, heading: str) -> Path:
    """Returns the file that a report goes to: `README.md`, unless that is somebody else's.

    Args:
      folder: The folder of the report, which need not be there.
      heading: The first line of the report. Reports from before there was a mark are known by it.

    Raises:
      UserError: A file of another origin is at every place for it.
    """
    for path in (folder / name for name in REPORT_FILES):
        if not path.exists():
            return path
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            if _REPORT_MARK in lines or lines[0] == heading:
                return path
    raise UserError(
        f"{' and '.join(REPORT_FILES)} in {folder} are not reports of evonorm_jax, and stay as "
        "they are. Name another folder with --output."
    )


def write_report(path: Path, text: str) -> None:
    """Writes a Markdown report with the mark that lets the next one replace it."""
    with replacing(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n\n{_REPORT_MARK}\n", encoding="utf-8")
