"""Records of evaluations: a file of JSON lines that an interrupted run goes on with.

Its first line says what all records depend on, so that none of another protocol gets among them.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.graphs import Graph
from evonorm_jax.search.run.ledger_rows import broken_rule

#: Says what a record must be where it is not, and None where it is one.
RecordRule = Callable[[Mapping[str, Any]], str | None]


def read_records(path: Path, rule: RecordRule) -> list[dict[str, Any]]:
    """Reads the records in a file; a last line that a kill has cut short is left out.

    Args:
      path: The file; one that does not exist has no records.
      rule: What records of this kind must be, beyond the graph and the verdict of each.

    Raises:
      UserError: The file cannot be read, or a line is damaged; the message names the line and what
        it must be.
    """
    lines = _read(path).rpartition(b"\n")[0].split(b"\n")
    return [_record(path, i, lines[i - 1], rule) for i in range(2, len(lines) + 1)]


def prepare_records(path: Path, basis: Mapping[str, Any], rule: RecordRule) -> None:
    """Begins the file, or removes the part of a line that a kill has left.

    Args:
      path: The file.
      basis: What all records depend on.
      rule: What records of this kind must be, beyond the graph and the verdict of each.

    Raises:
      UserError: The file is damaged, or was begun with another basis. It stays as it is.
    """
    first = (json.dumps(basis) + "\n").encode()
    content = _read(path)
    whole = content.rfind(b"\n") + 1
    if whole and not content.startswith(first):
        raise UserError(
            f"{path} has records of another protocol, data set or seed, or its first line is"
            " damaged. Go on with the arguments that it was begun with, or choose another folder."
        )
    read_records(path, rule)
    if not whole:
        path.write_bytes(first)
    elif whole < len(content):
        os.truncate(path, whole)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}): mend that, or choose another folder."
        ) from error


def _record(path: Path, number: int, line: bytes, rule: RecordRule) -> dict[str, Any]:
    """Returns the record in a line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    broken = "a JSON object"
    if isinstance(record, dict):
        broken = _broken_evaluation_rule(record) or rule(record) or ""
    if broken:
        raise UserError(
            f"{path} is damaged: line {number} is no record, which must be {broken}. Remove the "
            "line, and its candidate is trained again, or choose another folder."
        )
    return record


def _broken_evaluation_rule(record: Mapping[str, Any]) -> str | None:
    """Returns what any evaluation must be where it is not: a graph, a commit and a verdict."""
    try:
        Graph.from_text(record["graph"])
    except (KeyError, TypeError, AttributeError, UserError, ValueError, RecursionError):
        return "an object in which 'graph' is the text of a graph"
    if not isinstance(record.get("reason", 0), str | None):
        return "an object in which 'reason' is a text, or null"
    if not isinstance(record.get("commit"), str):
        return "an object in which 'commit' is a text"
    if not isinstance(details := record.get("details"), dict):
        return "an object in which 'details' is an object"
    if broken := broken_rule(details):
        return f"an object whose 'details' are {broken}"
    return None
