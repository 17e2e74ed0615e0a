"""Records of evaluations: a file of JSON lines that an interrupted run goes on with.

Its first line says what all records depend on, so that none of another protocol gets among them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import read_json_lines


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads the records in a file."""
    return [line.row for line in read_json_lines(path) if line.row is not None][1:]


def prepare_records(path: Path, basis: Mapping[str, Any]) -> None:
    """Begins the file, or removes the part of a line that a kill has left.

    Args:
      path: The file.
      basis: What all records depend on.

    Raises:
      UserError: The records in the file depend on something else.
    """
    first = json.dumps(basis) + "\n"
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
        if not whole:
            file.write(first.encode())
    if whole and content.split(b"\n", 1)[0].decode() + "\n" != first:
        raise UserError(
            f"{path} has records of another protocol, data set or seed. Go on with the arguments "
            "that it was begun with, or choose another folder."
        )
