"""What a ledger says, read: the candidates, what became of them, and in which order it happened.

The file is for people, too:

    sqlite3 -box runs/search/ledger.sqlite "SELECT reason, count(*) FROM results GROUP BY reason"
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine import Evaluation
from evonorm_jax.search.evolution import Candidate, Result
from evonorm_jax.search.graph import Graph

LEDGER_FILE = "ledger.sqlite"
FORMAT = "evonorm_jax ledger 1"

SCHEMA = (
    """CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)""",
    """CREATE TABLE starts (
        time REAL NOT NULL,               -- s since 1970, here and below
        description TEXT NOT NULL         -- JSON: command, commit, host, workers
    )""",
    """CREATE TABLE candidates (
        id INTEGER PRIMARY KEY,           -- 0, 1, 2, ... in the order of the proposals
        graph TEXT NOT NULL,
        parent INTEGER REFERENCES candidates,
        seed INTEGER NOT NULL,            -- of its evaluation
        function TEXT,                    -- functional hash; NULL if a cheaper filter rejected it
        results_before INTEGER NOT NULL,  -- results that the search knew when it proposed this
        time REAL NOT NULL
    )""",
    """CREATE TABLE results (
        place INTEGER PRIMARY KEY,        -- 0, 1, 2, ... in the order in which the search took them
        candidate INTEGER NOT NULL UNIQUE REFERENCES candidates,
        stage TEXT NOT NULL,              -- how far it came
        reason TEXT,                      -- why it was rejected; NULL if it was scored
        scores TEXT NOT NULL,             -- JSON: accuracy in percent by anchor network
        steps INTEGER NOT NULL,           -- training steps, over all networks
        seconds REAL NOT NULL,
        details TEXT NOT NULL,            -- JSON; null for what is not finite
        time REAL NOT NULL
    )""",
    """CREATE TABLE reranked (
        candidate INTEGER NOT NULL REFERENCES candidates,
        seed INTEGER NOT NULL,
        stage TEXT NOT NULL,
        reason TEXT,
        scores TEXT NOT NULL,
        steps INTEGER NOT NULL,
        seconds REAL NOT NULL,
        details TEXT NOT NULL,
        time REAL NOT NULL,
        PRIMARY KEY (candidate, seed)
    )""",
)
_EVALUATION_COLUMNS = "stage, reason, scores, steps, seconds, details"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A candidate in the ledger.

    Attributes:
      candidate: number, graph and parent.
      seed: of its evaluation.
      function: its functional hash; None if a cheaper filter rejected it.
      results_before: how many results the search knew when it proposed it.
      time: of the proposal, s since 1970.
      place: of its result among the results; None while it has none.
      evaluation: what became of it; None while it has no result.
      result_time: when, s since 1970.
    """

    candidate: Candidate
    seed: int
    function: str | None
    results_before: int
    time: float
    place: int | None = None
    evaluation: Evaluation | None = None
    result_time: float | None = None

    @property
    def id(self) -> int:
        """The number of the candidate."""
        return self.candidate.id

    @property
    def is_scored(self) -> bool:
        """Whether it has scores on all networks."""
        return self.evaluation is not None and self.evaluation.reason is None

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks, in percent, of a scored candidate."""
        assert self.evaluation is not None
        scores = self.evaluation.scores.values()
        return sum(scores) / len(scores)


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a ledger says.

    Attributes:
      path: of the file.
      config: of the search, as nested dictionaries.
      rerank_config: of the larger budget; None before `experiments.rerank`.
      entries: the candidates, by number.
      reranked: evaluations at the larger budget, by candidate and seed.
      starts: what was noted at each start, with its `time`.
    """

    path: Path
    config: Mapping[str, Any]
    rerank_config: Mapping[str, Any] | None
    entries: Sequence[Entry]
    reranked: Mapping[tuple[int, int], Evaluation]
    starts: Sequence[Mapping[str, Any]]

    def best(self, count: int) -> list[Entry]:
        """The scored candidates of the highest mean accuracy, best first; earlier before equal."""
        scored = [entry for entry in self.entries if entry.is_scored]
        return sorted(scored, key=lambda entry: -entry.mean)[:count]


def search_events(entries: Sequence[Entry], anchors: Sequence[str]) -> Iterator[Candidate | Result]:
    """What happened, in order: a candidate for each proposal, a result for each one taken.

    Args:
      entries: by number.
      anchors: the networks in the order of a candidate's scores.
    """
    told = 0
    results = sorted((e for e in entries if e.place is not None), key=lambda e: e.place or 0)
    for entry in entries:
        while told < entry.results_before:
            yield to_result(results[told].id, results[told].evaluation, anchors)
            told += 1
        yield entry.candidate
    for entry in results[told:]:
        yield to_result(entry.id, entry.evaluation, anchors)


def to_result(candidate: int, evaluation: Evaluation | None, anchors: Iterable[str]) -> Result:
    """What the search is told of an evaluation."""
    assert evaluation is not None
    if evaluation.reason is not None:
        return Result(candidate, rejected=evaluation.reason)
    return Result(candidate, scores=tuple(evaluation.scores[name] for name in anchors))


def read_ledger(path: str | os.PathLike[str]) -> Contents:
    """Reads a ledger, also while its search goes on.

    Args:
      path: the file, or the folder of the search.

    Raises:
      UserError: there is none, or it is something else.
    """
    with open_to_read(path) as connection:
        return read_contents(connection, ledger_path(path))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The config of a ledger's search, as nested dictionaries.

    Raises:
      UserError: there is no ledger, or it is something else.
    """
    with open_to_read(path) as connection:
        return read_about(connection, ledger_path(path))["config"]


def is_empty(path: str | os.PathLike[str]) -> bool:
    """Whether a ledger was never begun, or its first start was cut short.

    Raises:
      UserError: it is no database.
    """
    path = ledger_path(path)
    if not path.exists() or path.stat().st_size == 0:
        return True
    with open_to_read(path) as connection:
        return connection.execute("SELECT * FROM sqlite_master").fetchone() is None


def was_trained(path: str | os.PathLike[str]) -> bool:
    """Whether a ledger has a result that took training."""
    with open_to_read(path) as connection:
        return connection.execute("SELECT * FROM results WHERE steps").fetchone() is not None


def ledger_path(path: str | os.PathLike[str]) -> Path:
    """The file of a ledger that is named by its folder or itself."""
    path = Path(path)
    return path / LEDGER_FILE if path.is_dir() else path


@contextlib.contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, for a `with` block.

    Raises:
      UserError: there is no ledger, or it is something else.
    """
    path = ledger_path(path)
    if not path.is_file():
        raise UserError(
            f"There is no ledger {path}; give the --workdir of experiments.search, or its "
            f"{LEDGER_FILE}."
        )
    try:
        # Not `mode=ro`: after a kill the last commits lie in a file beside it, and reading them
        # takes a shared one that must be made.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30.0)) as connection:
            connection.execute("PRAGMA query_only = ON")
            yield connection
    except sqlite3.Error as error:
        raise UserError(f"{path} is no ledger of a search: {error}.") from error


def read_about(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """The config of the search and, if it was reranked, that of the reranking.

    Raises:
      UserError: another version wrote the ledger.
    """
    about = dict(connection.execute("SELECT key, value FROM about"))
    if (found := about.pop("format", None)) != FORMAT:
        raise UserError(f"{path} has the format {found!r}; this version reads {FORMAT!r}.")
    return {key: json.loads(value) for key, value in about.items()}


def read_contents(connection: sqlite3.Connection, path: Path) -> Contents:
    """All that a connection sees."""
    about = read_about(connection, path)
    query = (
        "SELECT id, graph, parent, seed, function, results_before, candidates.time, place, "
        f"results.time, {_EVALUATION_COLUMNS} "
        "FROM candidates LEFT JOIN results ON candidate = id ORDER BY id"
    )
    entries = []
    for row in connection.execute(query):
        number, graph, parent, seed, function, before, proposed, place, told, *columns = row
        candidate = Candidate(number, Graph.from_text(graph), parent)
        evaluation = None if place is None else _from_columns(*columns)
        entries.append(Entry(candidate, seed, function, before, proposed, place, evaluation, told))
    query = f"SELECT candidate, seed, {_EVALUATION_COLUMNS} FROM reranked ORDER BY candidate, seed"
    reranked = {
        (number, seed): _from_columns(*columns)
        for number, seed, *columns in connection.execute(query)
    }
    starts = [
        {"time": when, **json.loads(description)}
        for when, description in connection.execute("SELECT time, description FROM starts")
    ]
    return Contents(path, about["config"], about.get("rerank"), entries, reranked, starts)


def to_columns(evaluation: Evaluation) -> tuple[Any, ...]:
    """The columns from `stage` to `details`, of `results` and of `reranked`."""
    return (
        evaluation.stage,
        evaluation.reason,
        _to_json(evaluation.scores),
        evaluation.steps,
        evaluation.seconds,
        _to_json(evaluation.details),
    )


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """With None for numbers that JSON does not have, such as a loss of NaN or a norm of infinity.

    Python would write them all the same, and SQLite refuse to read the column as JSON.
    """
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_columns(
    stage: str, reason: str | None, scores: str, steps: int, seconds: float, details: str
) -> Evaluation:
    return Evaluation(
        stage=stage,
        reason=reason,
        scores=json.loads(scores),
        steps=steps,
        seconds=seconds,
        details=json.loads(details),
    )
