"""What the rows of a ledger may hold: each is checked as it is read.

A ledger is a file of the user's: a disk may damage it, and people edit it. Rows that break a rule
here are refused with the ledger, the table, the row and the rule.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.run_files import is_number
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate

# What nearly all losses are: a look at the types takes a quarter of the time of the whole rule.
_NUMBER_OR_NULL = frozenset((float, type(None)))


class Row:
    """A row of a ledger, of which each column is asked for with its rule.

    Args:
      path: The ledger.
      name: What the row is called in messages, such as "candidates, id 3".
      columns: The values by column.
      key: A column whose value belongs to the name.
    """

    __slots__ = ("_key", "_name", "columns", "path")

    def __init__(
        self,
        path: Path,
        name: str,
        columns: Mapping[str, Any] | sqlite3.Row,
        key: str | None = None,
    ) -> None:
        self.path = path
        self.columns = columns
        self._name = name
        self._key = key

    def refuse(self, column: str, rule: str) -> NoReturn:
        """Raises `UserError`: the value of the column breaks the rule."""
        value = repr(self.columns[column])
        shown = value if len(value) <= 80 else f"{value[:77]}..."
        name = (
            self._name
            if self._key is None
            else f"{self._name}, {self._key} {self.columns[self._key]!r}"
        )
        raise UserError(
            f"{self.path} is damaged: {name}: {column} is {shown}, but must be {rule}. Put a "
            "whole copy of the ledger in its place, or choose another --workdir."
        )

    def whole(self, column: str, rule: str = "a whole number from 0") -> int:
        """Returns a whole number that is not negative."""
        value = self.columns[column]
        if type(value) is not int or value < 0:
            self.refuse(column, rule)
        return value

    def seconds(self, column: str) -> float:
        """Returns a time or a duration."""
        value = self.columns[column]
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
            self.refuse(column, "a number of seconds from 0")
        return float(value)

    def text(self, column: str) -> str:
        """Returns a text that is not empty."""
        value = self.columns[column]
        if not isinstance(value, str) or not value:
            self.refuse(column, "a text")
        return value

    def text_or_none(self, column: str) -> str | None:
        """Returns a text that is not empty, or None."""
        return None if self.columns[column] is None else self.text(column)

    def object(self, column: str) -> dict[str, Any]:
        """Returns the JSON object that the column holds as a text."""
        try:
            content = json.loads(self.text(column))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            self.refuse(column, "a JSON object")
        return content

    def graph(self, column: str) -> Graph:
        """Returns the graph that the column holds as a text."""
        try:
            return Graph.from_text(self.text(column))
        except (UserError, ValueError, RecursionError) as error:
            self.refuse(column, f"a graph ({error})")

    def candidate(self) -> Candidate:
        """Returns the candidate of a row of `candidates`, whose parent came before it."""
        number = self.whole("id")
        parent = self.columns["parent"]
        if parent is not None and self.whole("parent") >= number:
            self.refuse("parent", f"a candidate before {number}")
        return Candidate(number, self.graph("graph"), parent)

    def verdict(self) -> Verdict:
        """Returns the verdict of a row of `results` or of `reranked`."""
        reason, scores = self.text_or_none("reason"), self.object("scores")
        if not all(_is_percent(score) for score in scores.values()):
            self.refuse("scores", "percentages from 0 to 100 by network")
        if reason is None and not scores:
            self.refuse("scores", "not empty where no reason for a rejection stands")
        details = self.object("details")
        if rule := broken_rule(details):
            self.refuse("details", rule)
        return Verdict(
            stage=self.text("stage"),
            reason=reason,
            scores=scores,
            steps=self.whole("steps"),
            seconds=self.seconds("seconds"),
            details=details,
        )


def broken_rule(details: Mapping[str, Any]) -> str | None:
    """Returns what the details of a verdict must be where they are not; None where they are.

    Keys that this version does not write are left alone.

    >>> broken_rule({"quality": {"resnet50_cifar": 101.0}})
    "an object in which 'quality' has percentages from 0 to 100 by network"
    """
    for key in ("canonical", "function", "message", "anchor"):
        if not isinstance(details.get(key, ""), str):
            return f"an object in which {key!r} is a text"
    if not _is_number_or_null(details.get("gradient_norm")):
        return "an object in which 'gradient_norm' is a number"
    quality, losses = details.get("quality", {}), details.get("losses", {})
    if not isinstance(quality, dict) or not all(map(_is_percent, quality.values())):
        return "an object in which 'quality' has percentages from 0 to 100 by network"
    if not isinstance(losses, dict) or not all(
        isinstance(means, list)
        and (_NUMBER_OR_NULL.issuperset(map(type, means)) or all(map(_is_number_or_null, means)))
        for means in losses.values()
    ):
        return "an object in which 'losses' has lists of numbers by network"
    return None


def _is_percent(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 100


def _is_number_or_null(value: Any) -> bool:
    return value is None or is_number(value)


def read_rows(
    connection: sqlite3.Connection, path: Path, table: str, columns: str, *, key: str, order: str
) -> Iterator[Row]:
    """Reads the rows of a table, which messages name by the column `key`.

    Args:
      connection: Is open to the ledger.
      path: The ledger.
      table: The table.
      columns: Names of columns, as SQL lists them.
      key: One of the columns.
      order: What the rows are sorted by, as SQL lists it.
    """
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row  # which takes half the time of a dictionary
    for values in cursor.execute(f"SELECT {columns} FROM {table} ORDER BY {order}"):
        yield Row(path, table, values, key)
