"""Reads ledgers: the candidates, what became of them, and in which order it happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate, CandidateResult
from evonorm_jax.search.run.ledger_format import (
    LEDGER_FILE,
    LEDGER_FORMAT,
    VERDICT_COLUMNS,
    from_columns,
)


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """A candidate in the ledger.

    Attributes:
      candidate: Its number, graph and parent.
      seed: The seed of its evaluation.
      function: Its functional hash; None if a cheaper filter rejected it.
      results_before: How many results the search knew when it proposed the candidate.
      time: When it was proposed, in seconds since 1970.
      place: The place of its result among the results; None while it has none.
      verdict: What became of it; None while it has no result.
      result_time: When its result came, in seconds since 1970; None while it has none.
    """

    candidate: Candidate
    seed: int
    function: str | None
    results_before: int
    time: float
    place: int | None = None
    verdict: Verdict | None = None
    result_time: float | None = None

    @property
    def id(self) -> int:
        """The number of the candidate."""
        return self.candidate.id

    @property
    def is_scored(self) -> bool:
        """Whether it has scores on all networks."""
        return self.verdict is not None and self.verdict.reason is None

    @property
    def mean(self) -> float:
        """The mean accuracy over the networks, in percent, of a scored candidate."""
        assert self.verdict is not None
        scores = self.verdict.scores.values()
        return sum(scores) / len(scores)


@dataclasses.dataclass(frozen=True)
class LedgerContents:
    """All that a ledger says.

    Attributes:
      path: The file.
      config: The config of the search, as nested dictionaries.
      rerank_config: The config of the larger budget; None before `experiments.rerank`.
      entries: The candidates, by number.
      reranked: The verdicts at the larger budget, by candidate and seed.
      starts: What was noted at each start, with its `time`.
    """

    path: Path
    config: Mapping[str, Any]
    rerank_config: Mapping[str, Any] | None
    entries: Sequence[LedgerEntry]
    reranked: Mapping[tuple[int, int], Verdict]
    starts: Sequence[Mapping[str, Any]]

    def best(self, count: int) -> list[LedgerEntry]:
        """Returns the scored candidates of the highest mean accuracy; of equals the earlier."""
        scored = [entry for entry in self.entries if entry.is_scored]
        return sorted(scored, key=lambda entry: -entry.mean)[:count]


def search_events(
    entries: Sequence[LedgerEntry], anchors: Sequence[str]
) -> Iterator[Candidate | CandidateResult]:
    """Yields what happened, in order: a candidate for each proposal, a result for each one taken.

    Args:
      entries: The candidates, by number.
      anchors: The networks in the order of a candidate's scores.
    """
    told = 0
    results = sorted((e for e in entries if e.place is not None), key=lambda e: e.place or 0)
    for entry in entries:
        while told < entry.results_before:
            yield to_result(results[told].id, results[told].verdict, anchors)
            told += 1
        yield entry.candidate
    for entry in results[told:]:
        yield to_result(entry.id, entry.verdict, anchors)


def to_result(candidate: int, verdict: Verdict | None, anchors: Iterable[str]) -> CandidateResult:
    """Returns what the search is told of a verdict."""
    assert verdict is not None
    if verdict.reason is not None:
        return CandidateResult(candidate, rejected=verdict.reason)
    return CandidateResult(candidate, scores=tuple(verdict.scores[name] for name in anchors))


def read_ledger(path: str | os.PathLike[str]) -> LedgerContents:
    """Reads a ledger, also while its search goes on.

    Args:
      path: The file, or the folder of the search.

    Raises:
      UserError: There is no ledger, or the file is something else.
    """
    with open_to_read(path) as connection:
        return read_contents(connection, ledger_path(path))


def read_ledger_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the config of a ledger's search, as nested dictionaries.

    Raises:
      UserError: There is no ledger, or the file is something else.
    """
    with open_to_read(path) as connection:
        return read_about(connection, ledger_path(path))["config"]


def is_empty(path: str | os.PathLike[str]) -> bool:
    """Tells whether a ledger was never begun, or its first start was cut short.

    Raises:
      UserError: The file is no database.
    """
    path = ledger_path(path)
    if not path.exists() or path.stat().st_size == 0:
        return True
    with open_to_read(path) as connection:
        return connection.execute("SELECT * FROM sqlite_master").fetchone() is None


def has_candidates(path: str | os.PathLike[str]) -> bool:
    """Tells whether a ledger has a candidate."""
    with open_to_read(path) as connection:
        return connection.execute("SELECT * FROM candidates").fetchone() is not None


def was_trained(path: str | os.PathLike[str]) -> bool:
    """Tells whether a ledger has a result that took training."""
    with open_to_read(path) as connection:
        return connection.execute("SELECT * FROM results WHERE steps").fetchone() is not None


def ledger_path(path: str | os.PathLike[str]) -> Path:
    """Returns the file of a ledger that is named by its folder or by itself."""
    path = Path(path)
    return path / LEDGER_FILE if path.is_dir() else path


@contextlib.contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """Opens a connection that cannot write, for a `with` block.

    Raises:
      UserError: There is no ledger, or the file is something else.
    """
    path = ledger_path(path)
    if not path.is_file():
        raise UserError(
            f"There is no ledger {path}; give the --workdir of experiments.search, or its "
            f"{LEDGER_FILE}."
        )
    try:
        # Not `mode=ro`: after a kill the last commits lie in a file beside the ledger, and to read
        # them SQLite must create another file there.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30.0)) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection
    except sqlite3.Error as error:
        raise UserError(f"{path} is no ledger of a search: {error}.") from error


def read_about(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Reads the config of the search and, if it was reranked, that of the reranking.

    Raises:
      UserError: Another version wrote the ledger.
    """
    about = dict(connection.execute("SELECT key, value FROM about"))
    if (found := about.pop("format", None)) != LEDGER_FORMAT:
        raise UserError(f"{path} has the format {found!r}; this version reads {LEDGER_FORMAT!r}.")
    return {key: json.loads(value) for key, value in about.items()}


def read_contents(connection: sqlite3.Connection, path: Path) -> LedgerContents:
    """Reads all that a connection sees."""
    about = read_about(connection, path)
    query = (
        "SELECT id, graph, parent, seed, function, results_before, candidates.time, place, "
        f"results.time, {VERDICT_COLUMNS} "
        "FROM candidates LEFT JOIN results ON candidate = id ORDER BY id"
    )
    entries = []
    for row in connection.execute(query):
        number, graph, parent, seed, function, before, proposed, place, told, *columns = row
        candidate = Candidate(number, Graph.from_text(graph), parent)
        verdict = None if place is None else from_columns(*columns)
        entry = LedgerEntry(candidate, seed, function, before, proposed, place, verdict, told)
        entries.append(entry)
    query = f"SELECT candidate, seed, {VERDICT_COLUMNS} FROM reranked ORDER BY candidate, seed"
    reranked = {
        (number, seed): from_columns(*columns)
        for number, seed, *columns in connection.execute(query)
    }
    starts = [
        {"time": when, **json.loads(description)}
        for when, description in connection.execute("SELECT time, description FROM starts")
    ]
    return LedgerContents(path, about["config"], about.get("rerank"), entries, reranked, starts)
