"""Opens ledgers to read: the file, and a connection that cannot write."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from evonorm_jax.errors import UserError
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_journal import missing_in_file_system

#: How long a reader waits for a lock, such as that of a person's transaction.
_LOCK_SECONDS = 30.0


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
