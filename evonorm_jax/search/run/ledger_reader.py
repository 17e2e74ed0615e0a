"""Reads ledgers: the candidates, what became of them, and in which order it happened."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate, CandidateResult
from evonorm_jax.search.run.ledger_format import (
    LEDGER_FILE,
    LEDGER_FORMAT,
    VERDICT_COLUMNS,
)
from evonorm_jax.search.run.ledger_journal import missing_in_file_system
from evonorm_jax.search.run.ledger_rows import Row, check_order, named_rows

#: How long a reader waits for a lock, such as that of a person's transaction.
_LOCK_SECONDS = 30.0


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

    def check_networks(self, networks: Sequence[str]) -> None:
        """Raises `UserError` unless every scored candidate has a score on each of some networks."""
        for entry in self.entries:
            if entry.verdict is not None and entry.is_scored:
                scores = entry.verdict.scores
                if not scores.keys() >= {*networks}:
                    Row(self.path, f"results, candidate {entry.id}", {"scores": scores}).refuse(
                        "scores", f"of all the networks {', '.join(networks)}"
                    )


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
    path = ledger_path(path)
    with open_to_read(path) as connection:
        contents = read_contents(connection, path)
        # A page that no row above needed, of an index for example, would fail a later write.
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise UserError(f"{path} is damaged: {state}. Put a whole copy in its place.")
        return contents


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
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)
        ) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection
    except sqlite3.Error as error:
        if missing := missing_in_file_system(error):
            raise UserError(
                f"{path} cannot be read where it is: its file system lacks {missing} ({error})."
                " Copy its folder to another file system, such as a local disk, and name the copy."
            ) from error
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise UserError(
                f"{path} is locked by another process. Close what has it open and try again."
            ) from error
        raise UserError(f"{path} is no ledger of a search: {error}.") from error


def read_about(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Reads the config of the search and, if it was reranked, that of the reranking.

    Raises:
      UserError: Another version wrote the ledger, or a config is damaged.
    """
    about = dict(connection.execute("SELECT key, value FROM about"))
    if (found := about.pop("format", None)) != LEDGER_FORMAT:
        raise UserError(f"{path} has the format {found!r}; this version reads {LEDGER_FORMAT!r}.")
    row = Row(path, "about", {"config": None, **about})
    return {key: row.object(key) for key in row.columns}


def read_contents(connection: sqlite3.Connection, path: Path) -> LedgerContents:
    """Reads all that a connection sees.

    Raises:
      UserError: A row is not what it should be; the message names it.
    """
    about = read_about(connection, path)
    query = (
        "SELECT id, graph, parent, candidates.seed, function, results_before, candidates.time, "
        f"place, results.time, {VERDICT_COLUMNS} "
        "FROM candidates LEFT JOIN results ON candidate = id ORDER BY id"
    )
    verdict_columns = VERDICT_COLUMNS.split(", ")
    columns = (*_ENTRY_COLUMNS, *verdict_columns)
    entries = [
        _to_entry(row)
        for row in named_rows(path, "candidates", "id", columns, connection.execute(query))
    ]
    orphan = "SELECT candidate FROM results WHERE candidate NOT IN (SELECT id FROM candidates)"
    if (found := connection.execute(orphan).fetchone()) is not None:
        row = Row(path, "results", {"candidate": found[0]})
        row.refuse("candidate", "the number of a candidate")
    places = sorted(entry.place for entry in entries if entry.place is not None)
    known = [entry.results_before for entry in entries]
    check_order(path, [entry.id for entry in entries], places, known)
    query = f"SELECT candidate, seed, {VERDICT_COLUMNS} FROM reranked ORDER BY candidate, seed"
    columns = ("candidate", "seed", *verdict_columns)
    rows = named_rows(path, "reranked", "candidate", columns, connection.execute(query))
    reranked = {(row.whole("candidate"), row.whole("seed")): row.verdict() for row in rows}
    starts = read_starts(connection, path)
    return LedgerContents(path, about["config"], about.get("rerank"), entries, reranked, starts)


def read_starts(connection: sqlite3.Connection, path: Path) -> list[dict[str, Any]]:
    """Reads what was noted at each start, with its `time`."""
    query = "SELECT time, description FROM starts"
    rows = named_rows(path, "starts", "time", ("time", "description"), connection.execute(query))
    return [{"time": row.seconds("time"), **row.object("description")} for row in rows]


_ENTRY_COLUMNS = (
    "id", "graph", "parent", "seed", "function", "results_before", "time", "place", "result_time",
)  # fmt: skip


def _to_entry(row: Row) -> LedgerEntry:
    has_result = row.columns["place"] is not None
    return LedgerEntry(
        candidate=row.candidate(),
        seed=row.whole("seed"),
        function=row.text_or_none("function"),
        results_before=row.whole("results_before"),
        time=row.seconds("time"),
        place=row.whole("place") if has_result else None,
        verdict=row.verdict() if has_result else None,
        result_time=row.seconds("result_time") if has_result else None,
    )
