"""The file of a ledger: its tables, and how a verdict is written into their columns.

The file is for people, too:

    sqlite3 -box runs/search/ledger.sqlite "SELECT reason, count(*) FROM results GROUP BY reason"
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from evonorm_jax.search.engine.verdicts import Verdict

#: The name of a ledger in the folder of its search.
LEDGER_FILE = "ledger.sqlite"

#: The version of the format.
LEDGER_FORMAT = "evonorm_jax ledger 1"

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

#: The columns of a verdict, in `results` and in `reranked`.
VERDICT_COLUMNS = "stage, reason, scores, steps, seconds, details"


def to_columns(verdict: Verdict) -> tuple[Any, ...]:
    """Returns the values of `VERDICT_COLUMNS`."""
    return (
        verdict.stage,
        verdict.reason,
        _to_json(verdict.scores),
        verdict.steps,
        verdict.seconds,
        _to_json(verdict.details),
    )


def _to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """Puts None for numbers that JSON does not have, such as a loss of NaN or a norm of infinity.

    Python would write them all the same, and SQLite would refuse to read the column as JSON.
    """
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
