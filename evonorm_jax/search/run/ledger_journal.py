"""What SQLite needs of the file system of a ledger, and which journal it keeps there.

A write-ahead log (WAL) needs memory that processes share through a file beside the ledger. Network
file systems such as NFS and Lustre may not have it. There the ledger keeps a rollback journal. It
is as safe against kills and power cuts, but a commit waits until nobody reads, and a reader waits
for a commit. Locks of files are needed in any case.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

_NO_SHARED_MEMORY = (
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
)
_NO_LOCKS = (
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
)


def supports_wal(folder: Path) -> bool:
    """Tells whether SQLite can keep a write-ahead log in a folder.

    It is tried with another database, because one that was set to WAL in vain can neither be read
    nor be set back. A full disk is no answer, and counts as yes: the ledger itself will say it.

    Args:
      folder: The folder of the ledger, which one process alone has the right to try.
    """
    probe = folder / "wal_probe"
    shutil.rmtree(probe, ignore_errors=True)  # a kill may have left it
    try:
        probe.mkdir()
        with contextlib.closing(
            sqlite3.connect(probe / "probe.sqlite", isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("CREATE TABLE probe (value)")  # the first use of the shared memory
        return mode == "wal"
    except OSError:
        return True
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def missing_in_file_system(error: sqlite3.Error) -> str | None:
    """Returns what a file system lacks that makes SQLite fail so; None where it is another error.

    >>> error = sqlite3.OperationalError("locking protocol")
    >>> error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    >>> missing_in_file_system(error)
    'memory that processes share'
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _NO_SHARED_MEMORY:
        return "memory that processes share"
    return "locks of files" if code in _NO_LOCKS else None
