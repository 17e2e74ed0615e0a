"""The ledger of a search: every candidate and what became of it, in one SQLite file.

One process writes it, the driver, under a lock that the kernel releases however the driver ends.
What was committed survives a kill. A candidate that had no result then is evaluated again, and
nothing else is. `ledger_reader.py` reads ledgers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import as_json
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.search_state import Candidate
from evonorm_jax.search.run.ledger_format import LEDGER_FILE, LEDGER_FORMAT, SCHEMA, to_columns
from evonorm_jax.search.run.ledger_journal import missing_in_file_system, supports_wal
from evonorm_jax.search.run.ledger_reader import (
    LedgerContents,
    has_candidates,
    is_empty,
    read_about,
    read_ledger,
    read_ledger_config,
    read_starts,
    was_trained,
)

logger = logging.getLogger(__name__)

LOCK_FILE = "driver.lock"

_ENVIRONMENT_ERRORS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM,
)

#: The fields that may change before a search is resumed: how long it lasts, where its data lie, and
#: what is done with its result (`rerank` has a check of its own). Until something is trained, the
#: data set may change as well, because only the first worker finds out that there is none.
OPEN_FIELDS = ("search.max_candidates", "search.max_scored", "dataset.path", "rerank")


class Ledger:
    """An open ledger, held by its driver.

    `commit` writes what was added; leaving the context commits nothing.

    Args:
      workdir: The folder of the search; made if need be.
      config: The config of the search, as nested dictionaries of JSON's types.
      description: What to note of this start.
      networks: The networks on which every scored candidate must have a score.

    Raises:
      UserError: The folder holds something else, another driver has it, its config differs, or
        it cannot be written. What is there stays as it is.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        config: Mapping[str, Any],
        description: Mapping[str, Any] | None = None,
        networks: Sequence[str] = (),
    ) -> None:
        self.workdir = Path(workdir)
        self.path = self.workdir / LEDGER_FILE
        self.config = as_json(config)
        if not (self.workdir / LOCK_FILE).exists() and not is_empty(self.path):
            # A damaged ledger is refused before even the file of the lock is made beside it. It is
            # read again under the lock, and only a copy of a ledger alone is read twice.
            read_ledger(self.path).check_networks(networks)
        self._lock = _lock(self.workdir)
        self._connection: sqlite3.Connection | None = None
        # What the ledger held at the start, so that the first `contents` need not read it again.
        self._found: LedgerContents | None = None
        try:
            is_new = is_empty(self.path)
            found = None
            # A start that failed before its first candidate binds nobody to its config.
            is_begun = not is_new and has_candidates(self.path)
            if not is_new:
                found = read_ledger(self.path)  # refuses a damaged one, before anything is written
            if is_begun:
                open_fields = OPEN_FIELDS if was_trained(self.path) else (*OPEN_FIELDS, "dataset")
                _check_config(self.path, read_ledger_config(self.path), self.config, open_fields)
            if found is not None:
                found.check_networks(networks)
            self._open(is_new, is_begun, dict(description or {}))
            self._found = found
        except BaseException:
            self.close()
            raise

    def _open(self, is_new: bool, is_begun: bool, description: Mapping[str, Any]) -> None:
        with self._guard():
            # Transactions are begun and ended here alone, not by Python's sqlite3.
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30.0)
            # With WAL readers do not hold the driver up, and a commit is one write. With FULL it is
            # on the disk when `commit` returns, so that not even a power cut takes it back.
            if supports_wal(self.workdir):
                self._connection.execute("PRAGMA journal_mode = WAL")
            else:
                logger.warning(
                    "The file system of %s has no write-ahead log of SQLite. The ledger is as safe"
                    " without, but the search waits while somebody reads it.",
                    self.workdir,
                )
            self._connection.execute("PRAGMA synchronous = FULL")
            if is_new:
                self._begin()
                for statement in SCHEMA:
                    self._connection.execute(statement)
                about = {"format": LEDGER_FORMAT, "config": json.dumps(self.config)}
                insert = "INSERT INTO about VALUES (?, ?)"
                self._connection.executemany(insert, about.items())
        if not is_new:
            self._set_config(is_begun)
        self._add("INSERT INTO starts VALUES (?, ?)", time.time(), json.dumps(description))
        self.commit()

    def _set_config(self, is_begun: bool) -> None:
        """Notes what of the config of this start may differ from before."""
        assert self._connection is not None
        saved = read_about(self._connection, self.path)["config"]
        config = self.config
        if is_begun:  # the data may lie elsewhere
            config = {**saved, **{name: config[name] for name in ("dataset",) if name in config}}
        if config != saved:
            self._add("UPDATE about SET value = ? WHERE key = 'config'", json.dumps(config))

    def contents(self) -> LedgerContents:
        """Commits and reads all that has been added."""
        assert self._connection is not None
        self.commit()
        found, self._found = self._found, None
        if found is None:
            return read_ledger(self.path)
        about = read_about(self._connection, self.path)
        starts = read_starts(self._connection, self.path)
        return dataclasses.replace(found, config=about["config"], starts=starts)

    def add_candidate(
        self, candidate: Candidate, *, seed: int, function: str | None, results_before: int
    ) -> None:
        """Records a proposal that was made when the search knew `results_before` results."""
        self._add(
            "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?)",
            candidate.id,
            candidate.graph.to_text(),
            candidate.parent,
            seed,
            function,
            results_before,
            time.time(),
        )

    def add_result(self, candidate: int, verdict: Verdict, *, place: int) -> None:
        """Records what became of a candidate, the search's result number `place`."""
        self._add(
            "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            place,
            candidate,
            *to_columns(verdict),
            time.time(),
        )

    def add_reranked(self, candidate: int, seed: int, verdict: Verdict) -> None:
        """Records a verdict at the larger budget."""
        self._add(
            "INSERT INTO reranked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            candidate,
            seed,
            *to_columns(verdict),
            time.time(),
        )

    def set_rerank_config(self, config: Mapping[str, Any]) -> None:
        """Notes how candidates are evaluated again.

        Raises:
          UserError: Some were evaluated in another way already.
        """
        assert self._connection is not None
        config = as_json(config)
        query = "SELECT value FROM about WHERE key = 'rerank' AND EXISTS (SELECT * FROM reranked)"
        if (row := self._connection.execute(query).fetchone()) is not None:
            _check_config(self.path, {"rerank": json.loads(row[0])}, {"rerank": config})
        else:
            self._add("INSERT OR REPLACE INTO about VALUES ('rerank', ?)", json.dumps(config))
            self.commit()

    def commit(self) -> None:
        """Makes what was added durable.

        Raises:
          UserError: It cannot be written, because the disk is full for example. What was
            committed before is intact.
        """
        assert self._connection is not None
        if self._connection.in_transaction:
            with self._guard():
                self._connection.execute("COMMIT")

    def _begin(self) -> None:
        assert self._connection is not None
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _add(self, statement: str, *values: Any) -> None:
        assert self._connection is not None
        self._found = None
        with self._guard():
            self._begin()
            self._connection.execute(statement, values)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turns a failed write into one message, and drops what was not committed."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if missing := missing_in_file_system(error):
                raise UserError(
                    f"The file system of {self.workdir} lacks {missing} ({error}), so the ledger"
                    " cannot be written. All that it had recorded is intact. Choose a --workdir on"
                    " another file system, or copy the folder there."
                ) from error
            # The low byte is the primary code; the others say what exactly happened.
            if (code := error.sqlite_errorcode & 0xFF) not in _ENVIRONMENT_ERRORS:
                raise
            full = code == sqlite3.SQLITE_FULL
            reason, remedy = ("the disk is full", "Make room") if full else (error, "Mend that")
            raise UserError(
                f"The ledger {self.path} cannot be written: {reason}. All that it had recorded is "
                f"intact. {remedy} and run the same command again."
            ) from error

    def close(self) -> None:
        """Releases the file and the lock, and drops what was added since the last commit."""
        if self._connection is not None:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            # This makes the ledger one plain file, which can be copied and opened anywhere. It
            # fails while somebody reads, or where the disk is full.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA busy_timeout = 100")
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_config(
    path: Path,
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    open_fields: tuple[str, ...] = (),
) -> None:
    if differing := list(_differences(saved, wanted, open_fields)):
        raise UserError(
            f"{path} belongs to a search with another config; the fields that differ:\n"
            + "\n".join(differing)
            + "\nGo on with the config it was started with, or choose another --workdir."
        )


def _differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], skip: tuple[str, ...], prefix: str = ""
) -> Iterator[str]:
    absent = "(absent)"
    for key in sorted({*saved, *wanted}):
        name, one, other = f"{prefix}{key}", saved.get(key, absent), wanted.get(key, absent)
        if name in skip or one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, skip, f"{name}.")
        else:
            yield f"  {name}: {one!r} there, {other!r} here"


def _lock(workdir: Path) -> int:
    """Takes the driver's lock of a folder; the kernel releases it when this process ends.

    The lock is on a file of its own, because closing any descriptor of the ledger would drop
    SQLite's locks.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file. Choose a folder, new or of a search.")
    if workdir.is_dir() and not (workdir / LEDGER_FILE).exists():
        strangers = sorted(p.name for p in workdir.iterdir() if p.name != LOCK_FILE)
        if strangers:
            raise UserError(
                f"{workdir} is not empty and not the folder of a search (no {LEDGER_FILE}; there "
                f"is {strangers[0]}). Choose another --workdir."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(workdir / LOCK_FILE, flags, 0o666)
    except OSError as error:
        raise UserError(
            f"The folder {workdir} cannot be written ({error.strerror or error}). Choose another "
            "with --workdir."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(
                f"The file system of {workdir} has no locks ({error.strerror}), so two searches "
                "could write one ledger. Choose a --workdir on another file system."
            ) from error
        raise UserError(
            f"Another process is driving the search in {workdir}: {holder or 'unknown'}. A ledger "
            "has one writer; wait for it, stop it, or choose another --workdir."
        ) from None
    with contextlib.suppress(OSError):  # for people alone, and the disk may be full
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor
