"""Ledgers on file systems that refuse a write-ahead log, or have no locks of files."""

import dataclasses
import shutil
import sqlite3
import threading
import time

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.search.run import ledger as ledger_module
from evonorm_jax.search.run import ledger_journal
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_file import open_to_read
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_journal import supports_wal
from evonorm_jax.search.run.ledger_reader import read_ledger
from tests.search.run.test_ledger import CONFIG, SCORED, file_size_limit, fill


def failing(code, message="disk I/O error"):
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def journal_mode(ledger):
    return ledger._connection.execute("PRAGMA journal_mode").fetchone()[0]


@pytest.fixture
def refuse(monkeypatch):
    """Makes databases refuse statements that contain a text, by an error or by another one."""
    connect = sqlite3.connect

    def set_answer(text, answer):
        class Refusing(sqlite3.Connection):
            def execute(self, statement, *values):
                if text in statement:
                    if isinstance(answer, Exception):
                        raise answer
                    statement = answer
                return super().execute(statement, *values)

        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Refusing, **k))

    return set_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("WAL", "PRAGMA journal_mode = DELETE"),  # the mode is another one than was asked for
        ("WAL", failing(sqlite3.SQLITE_PROTOCOL, "locking protocol")),
        ("CREATE TABLE probe", failing(sqlite3.SQLITE_IOERR_SHMMAP)),  # found out by the first use
    ],
)
def test_a_ledger_does_without_a_write_ahead_log(tmp_path, refuse, caplog, text, answer):
    refuse(text, answer)
    with Ledger(tmp_path, CONFIG) as ledger:
        assert journal_mode(ledger) == "delete"
        fill(ledger)
        assert len(read_ledger(tmp_path).entries) == 3  # while the driver has it open
    assert len(read_ledger(tmp_path).entries) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver.lock", LEDGER_FILE]
    assert caplog.text.count("has no write-ahead log of SQLite") == 1


def test_a_write_ahead_log_is_kept_where_it_can_be(tmp_path, caplog):
    (tmp_path / LEDGER_FILE).touch()
    (tmp_path / "wal_probe").mkdir()  # of a start that was killed
    with Ledger(tmp_path, CONFIG) as ledger:
        assert journal_mode(ledger) == "wal"
    assert caplog.text == ""
    assert not (tmp_path / "wal_probe").exists()


def test_memory_that_cannot_be_shared_is_found_out(tmp_path):
    """The file that stands for the memory has 32 kB, and this quota leaves it no more than 20."""
    with file_size_limit(20_000):
        assert not supports_wal(tmp_path)
    assert supports_wal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_ledger_says_better_is_no_answer(tmp_path, refuse):
    assert supports_wal(tmp_path / "missing")
    refuse("WAL", failing(sqlite3.SQLITE_FULL, "database or disk is full"))
    assert supports_wal(tmp_path)


def test_with_a_rollback_journal_a_commit_waits_for_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "supports_wal", lambda folder: False)
    reading, result = threading.Event(), "SELECT count(*) FROM results"

    def read():
        with open_to_read(tmp_path) as reader:
            reader.execute("BEGIN")
            counts.append(reader.execute(result).fetchone()[0])
            reading.set()
            time.sleep(0.1)
            counts.append(reader.execute(result).fetchone()[0])

    counts = []
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
        ledger.add_result(2, SCORED, place=2)
        thread = threading.Thread(target=read)
        thread.start()
        reading.wait()
        ledger.commit()
        thread.join()
    assert counts == [2, 2]  # the reader saw one state, and the commit came after it
    assert read_ledger(tmp_path).entries[2].verdict == SCORED


def test_with_a_rollback_journal_what_was_not_committed_is_taken_back(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "supports_wal", lambda folder: False)
    killed = tmp_path / "killed"
    with Ledger(tmp_path / "search", CONFIG) as ledger:
        fill(ledger)
        ledger._connection.execute("PRAGMA cache_size = 1")  # so that the file changes at once
        ledger.add_reranked(0, 5, dataclasses.replace(SCORED, details={"message": 99_999 * "x"}))
        shutil.copytree(tmp_path / "search", killed)  # what a kill would leave here
    assert (killed / f"{LEDGER_FILE}-journal").stat().st_size > 0
    contents = read_ledger(killed)
    assert ([entry.place for entry in contents.entries], contents.reranked) == ([0, 1, None], {})


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (sqlite3.SQLITE_IOERR_LOCK, "locks of files"),
        (sqlite3.SQLITE_IOERR_RDLOCK, "locks of files"),
        (sqlite3.SQLITE_PROTOCOL, "memory that processes share"),
        (sqlite3.SQLITE_IOERR_SHMOPEN, "memory that processes share"),
    ],
)
def test_what_the_file_system_lacks_is_one_message(tmp_path, refuse, code, missing):
    with Ledger(tmp_path, CONFIG) as ledger:
        fill(ledger)
    before = read_ledger(tmp_path)
    refuse("INSERT INTO starts", failing(code))
    with pytest.raises(UserError, match=rf"lacks {missing} .*Choose a --workdir on another"):
        Ledger(tmp_path, CONFIG)
    refuse("FROM about", failing(code))
    with pytest.raises(UserError, match=rf"lacks {missing} .*such as a local disk"):
        read_ledger(tmp_path)
    refuse("nothing", "")
    assert read_ledger(tmp_path) == before


def test_other_errors_are_not_taken_for_it():
    assert ledger_journal.missing_in_file_system(failing(sqlite3.SQLITE_IOERR_WRITE)) is None
    assert ledger_journal.missing_in_file_system(sqlite3.DatabaseError("no database")) is None
