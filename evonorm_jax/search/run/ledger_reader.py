"""Reads ledgers: the candidates, what became of them, and in which order it happened."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate, CandidateResult
from evonorm_jax.search.run.ledger_entries import LedgerEntries
from evonorm_jax.search.run.ledger_file import ledger_path, open_to_read
from evonorm_jax.search.run.ledger_format import LEDGER_FORMAT, VERDICT_COLUMNS
from evonorm_jax.search.run.ledger_rows import Row, read_rows


@dataclasses.dataclass(frozen=True)
class LedgerContents:
    """All that a ledger says.

    Attributes:
      path: The file.
      config: The config of the search, as nested dictionaries.
      rerank_config: The config of the larger budget; None before `experiments.rerank`.
      entries: The candidates with what became of them, by number.
      reranked: The verdicts at the larger budget, by candidate and seed.
      starts: What was noted at each start, with its `time`.
    """

    path: Path
    config: Mapping[str, Any]
    rerank_config: Mapping[str, Any] | None
    entries: LedgerEntries
    reranked: Mapping[tuple[int, int], Verdict]
    starts: Sequence[Mapping[str, Any]]

    def check_networks(self, networks: Sequence[str]) -> None:
        """Raises `UserError` unless every scored candidate has a score on each of some networks."""
        place = self.entries.find_without(networks)
        if place is not None:
            name = f"results, candidate {self.entries.ids[place]}"
            Row(self.path, name, {"scores": self.entries.scores(place)}).refuse(
                "scores", f"of all the networks {', '.join(networks)}"
            )


def search_events(
    entries: LedgerEntries, anchors: tuple[str, ...]
) -> Iterator[Candidate | CandidateResult]:
    """Yields what happened, in order: a candidate for each proposal, a result for each one taken.

    Args:
      entries: The candidates.
      anchors: The networks in the order of a candidate's scores.
    """
    told = 0
    for candidate, known in zip(entries.candidates(), entries.results_before, strict=True):
        while told < known:
            yield entries.result(told, anchors)
            told += 1
        yield candidate
    for place in range(told, len(entries.ids)):
        yield entries.result(place, anchors)


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
        connection.execute("BEGIN")  # all of it as it is at one moment
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


def read_about(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Reads the config of the search and, if it was reranked, that of the reranking.

    Raises:
      UserError: Another version wrote the ledger, or a config is damaged.
    """
    about = dict(connection.execute("SELECT key, value FROM about"))
    if (found := about.pop("format", None)) != LEDGER_FORMAT:
        raise UserError(f"{path} has the format {found!r}; this version reads {LEDGER_FORMAT!r}.")
    columns = {"config": None, **about}
    row = Row(path, "about", columns)
    return {key: row.object(key) for key in columns}


def read_contents(connection: sqlite3.Connection, path: Path) -> LedgerContents:
    """Reads all that a connection sees.

    Raises:
      UserError: A row is not what it should be; the message names it.
    """
    about = read_about(connection, path)
    entries = LedgerEntries(path)
    columns = "id, graph, parent, seed, function, results_before, time"
    for row in read_rows(connection, path, "candidates", columns, key="id", order="id"):
        entries.add_candidate(row)
    columns = f"place, candidate, {VERDICT_COLUMNS}, time"
    for row in read_rows(connection, path, "results", columns, key="candidate", order="place"):
        entries.add_result(row)
    entries.check_order()
    columns, order = f"candidate, seed, {VERDICT_COLUMNS}", "candidate, seed"
    rows = read_rows(connection, path, "reranked", columns, key="candidate", order=order)
    reranked = {(row.whole("candidate"), row.whole("seed")): row.verdict() for row in rows}
    starts = read_starts(connection, path)
    return LedgerContents(path, about["config"], about.get("rerank"), entries, reranked, starts)


def read_starts(connection: sqlite3.Connection, path: Path) -> list[dict[str, Any]]:
    """Reads what was noted at each start, with its `time`."""
    rows = read_rows(connection, path, "starts", "time, description", key="time", order="rowid")
    return [{"time": row.seconds("time"), **row.object("description")} for row in rows]
