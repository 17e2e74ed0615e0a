"""The files of runs and sweeps: their names, writing them whole, reading them whatever their state.

A run may be killed while it writes, and is read while it writes. So files are replaced whole, and
readers of JSON lines take what is complete.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from evonorm_jax.errors import UserError

CONFIG_FILE = "config.json"  # the resolved config
METADATA_FILE = "metadata.json"  # what the metrics mean; versions, commit, devices of every start
CLASSES_FILE = "classes.json"  # names of the classes, and how images are prepared for the network
METRICS_FILE = "metrics.jsonl"  # one object per event
SUMMARY_FILE = "summary.json"  # the final numbers; there once the run is finished
CURVE_FILE = "curve.png"
CLASS_ACCURACY_FILE = "class_accuracy.csv"  # of a classifier's newest evaluation
CONFUSION_FILE = "confusion_matrix.csv"  # of the same: which class was taken for which
CONFUSION_FIGURE = "confusion_matrix.png"
PRECISION_RECALL_FILE = "precision_recall.csv"  # of a detector's newest evaluation
PRECISION_RECALL_FIGURE = "precision_recall.png"
SWEEP_FILE = "sweep.jsonl"  # in the folder of a sweep: its starts and ends
REPORT_FILES = ("README.md", "report.md")  # the second where the first is somebody else's

_BLOCK_BYTES = 2**17  # of lines that are read at once
_BLANK = object()
_MARK = secrets.token_hex(16)  # put between lines that are parsed at once; no file can hold it
_SEPARATOR = f',"{_MARK}",'.encode()

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


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table whole or not at all; its header is the first row."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run directory.

    Raises:
      UserError: The file is damaged, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is not valid JSON ({error}); is it from a training run?"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must hold a JSON object, not {type(content).__name__}.")
    return content


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run that may be starting; `{}` where it is missing or incomplete."""
    try:
        return read_json(path)
    except (OSError, UserError):
        return {}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Reads the final numbers of a run; None while it is not finished.

    This is the one rule for "finished": `summary.json` is a JSON object that is not empty, and
    numbers stand where numbers belong. A damaged one is no summary: the run's next start writes it
    anew from the last checkpoint.
    """
    summary = read_json_or_empty(folder / SUMMARY_FILE)
    known = ("steps", "train_seconds", "best_step", "best_value")
    numbers = [value for name, value in summary.items() if "/" in name or name in known]
    damaged = any(value is not None and not is_number(value) for value in numbers)
    return None if damaged or not summary else summary


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value that was read from JSON is a number that a float can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


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
      row: The object that it holds; None where it holds none, as after a kill.
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
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        if last_bytes is not None:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - last_bytes))
        # Lines of bytes end at line breaks alone; JSON may hold other line separators.
        for number, line in enumerate(stream, start=1):
            text = line.decode(errors="replace").rstrip("\n")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            yield JsonLine(number, text, row if isinstance(row, dict) else None)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the events of `metrics.jsonl`; counts in the log, once, what is none.

    A kill leaves a torn row, a full disk several, and a bad copy anything.

    Yields:
      The rows that `is_event`.
    """
    first = damaged = number = 0
    for block in _read_blocks(path):
        for row in _parse_block(block):
            number += 1
            if isinstance(row, dict) and is_event(row):
                yield row
            elif row is not _BLANK:
                first = first or number
                damaged += 1
    if damaged == 1:
        logging.warning("%s:%d is not a complete event and is left out", path, first)
    elif damaged:
        logging.warning(
            "%s:%d and %d more lines are not complete events and are left out",
            path,
            first,
            damaged - 1,
        )


def _read_blocks(path: Path) -> Iterator[list[bytes]]:
    """Reads a file in blocks of whole lines; without a file there are none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
        while lines := stream.readlines(_BLOCK_BYTES):
            yield lines


def _parse_block(lines: list[bytes]) -> list[Any]:
    """Returns the value of each line: `_BLANK` of a blank one, None of one that is no JSON."""
    try:
        # At once, which takes half of the time, where every line is whole.
        parsed = json.loads(b"[" + _SEPARATOR[1:] + _SEPARATOR.join(lines) + b"]")
    except (ValueError, RecursionError):
        parsed = []
    # A value that is broken over two lines holds the mark between them, which is missing here.
    if len(parsed) == 2 * len(lines) and parsed[::2] == [_MARK] * len(lines):
        return parsed[1::2]
    return [_parse_line(line) for line in lines]


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode(errors="replace")) if line.strip() else _BLANK
    except (ValueError, RecursionError):
        return None


def is_event(row: Mapping[str, Any]) -> bool:
    """Whether a row of `metrics.jsonl` has a step.

    >>> is_event({"step": 3, "epoch": 0.5}), is_event({"step": "3"}), is_event({"epoch": 0.5})
    (True, False, False)
    """
    return type(step := row.get("step")) is int and 0 <= step < 2**53


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Appends one object in one write, so that several processes do not mix their lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def report_path(folder: Path, heading: str, beside: Iterable[str] = ()) -> Path:
    """Returns the file that a report goes to: `README.md`, unless that is somebody else's.

    Write the report before the files beside it: from then on they are known to be its own.

    Args:
      folder: The folder of the report, which need not be there.
      heading: The first line of the report. Reports from before there was a mark are known by it.
      beside: Names of the files that the report brings along. They may be there already beside an
        earlier report alone.

    Raises:
      UserError: A file of another origin is at every place for the report, or for a file beside it.
    """
    for path in (folder / name for name in REPORT_FILES):
        if not path.exists():
            if there := [name for name in beside if (folder / name).exists()]:
                raise UserError(
                    f"{folder / there[0]} is there already, without a report of evonorm_jax that "
                    "it belongs to, and stays as it is: move it, or name another folder with "
                    "--output."
                )
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
