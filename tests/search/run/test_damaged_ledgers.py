"""Ledgers whose content is damaged: each is refused in one message, and stays as it is."""

import contextlib
import json
import re
import shutil
import sqlite3

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.search.report.search_runs import load_searches
from evonorm_jax.search.run import ledger_file
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_format import LEDGER_FILE
from evonorm_jax.search.run.ledger_reader import read_ledger
from tests.search.run.fast_search import ANCHORS, make_config
from tests.search.run.test_ledger import CONFIG, SCORED, fill

pytestmark = pytest.mark.hostile

#: A statement that damages a ledger, and what the message says of it.
STATEMENTS = {
    "config no JSON": ("UPDATE about SET value = '{' WHERE key = 'config'", "config"),
    "config a list": ("UPDATE about SET value = '[1]' WHERE key = 'config'", "config"),
    "config gone": ("DELETE FROM about WHERE key = 'config'", "config is None"),
    "config deep": (
        f"UPDATE about SET value = '{'[' * 100_000}' WHERE key = 'config'",
        "a JSON object",
    ),
    "format gone": ("DELETE FROM about WHERE key = 'format'", "format None"),
    "format other": ("UPDATE about SET value = 'x' WHERE key = 'format'", "format 'x'"),
    "graph empty": ("UPDATE candidates SET graph = '' WHERE id = 1", "id 1: graph"),
    "graph foreign": ("UPDATE candidates SET graph = 'hello' WHERE id = 1", "id 1: graph"),
    "graph cyclic": ("UPDATE candidates SET graph = 'n4 = exp(n4)' WHERE id = 1", "id 1: graph"),
    "graph bytes": ("UPDATE candidates SET graph = x'00ff' WHERE id = 1", "id 1: graph"),
    "parent later": ("UPDATE candidates SET parent = 2 WHERE id = 1", "id 1: parent"),
    "parent text": ("UPDATE candidates SET parent = 'a' WHERE id = 1", "id 1: parent"),
    "seed text": ("UPDATE candidates SET seed = 'a' WHERE id = 1", "id 1: seed"),
    "function a number": ("UPDATE candidates SET function = x'01' WHERE id = 1", "id 1: function"),
    "time infinite": ("UPDATE candidates SET time = 9e999 WHERE id = 1", "id 1: time"),
    "knew more": ("UPDATE candidates SET results_before = 9 WHERE id = 1", "at most 2"),
    "knew less than none": ("UPDATE candidates SET results_before = -1 WHERE id = 1", "id 1"),
    "first candidate gone": ("DELETE FROM candidates WHERE id = 0", "id is 1"),
    "candidate renumbered": ("UPDATE candidates SET id = 7 WHERE id = 2", "id is 7"),
    "result renumbered": ("UPDATE results SET place = 5 WHERE place = 1", "place is 5"),
    "result of nobody": ("UPDATE results SET candidate = 9 WHERE place = 1", "candidate is 9"),
    "scores no JSON": ("UPDATE results SET scores = 'x' WHERE place = 0", "candidate 0: scores"),
    "scores a number": ("UPDATE results SET scores = '3' WHERE place = 0", "candidate 0: scores"),
    "scores empty": ("UPDATE results SET scores = '{}' WHERE place = 0", "not empty"),
    "scores texts": ("""UPDATE results SET scores = '{"wide": "a"}'""", "percentages"),
    "scores NaN": ("""UPDATE results SET scores = '{"wide": NaN}'""", "percentages"),
    "scores above 100": ("""UPDATE results SET scores = '{"wide": 101}'""", "percentages"),
    "details no JSON": ("UPDATE results SET details = 'x' WHERE place = 0", "candidate 0: details"),
    "details a list": ("UPDATE results SET details = '[]' WHERE place = 0", "candidate 0: details"),
    "details quality": ("""UPDATE results SET details = '{"quality": 1}'""", "'quality'"),
    "details quality NaN": (
        """UPDATE results SET details = '{"quality": {"wide": NaN}}'""",
        "NaN}}', but must be an object in which 'quality' has percentages",
    ),
    "details losses": ("""UPDATE results SET details = '{"losses": {"wide": 2.3}}'""", "'losses'"),
    "details a loss": ("""UPDATE results SET details = '{"losses": {"a": ["b"]}}'""", "'losses'"),
    "details function": ("""UPDATE results SET details = '{"function": 7}'""", "'function' is"),
    "details message": ("""UPDATE results SET details = '{"message": []}'""", "'message' is"),
    "details norm": ("""UPDATE results SET details = '{"gradient_norm": "1"}'""", "a number"),
    "details deep": (
        f"""UPDATE results SET details = '{{"losses": {"[" * 100_000}'""",
        "a JSON object",
    ),
    "details bytes": (
        "UPDATE results SET details = x'00ff' WHERE place = 0",
        "candidate 0: details",
    ),
    "reranked details": ("UPDATE reranked SET details = '[]'", "reranked, candidate 0: details"),
    "stage empty": ("UPDATE results SET stage = '' WHERE place = 0", "candidate 0: stage"),
    "steps negative": ("UPDATE results SET steps = -1 WHERE place = 0", "candidate 0: steps"),
    "seconds text": ("UPDATE results SET seconds = 'a' WHERE place = 0", "candidate 0: seconds"),
    "reranked scores": ("UPDATE reranked SET scores = '[]'", "reranked, candidate 0: scores"),
    "start no JSON": ("UPDATE starts SET description = 'x'", "description"),
    "table gone": ("DROP TABLE results", "no such table: results"),
    "column gone": ("ALTER TABLE results DROP COLUMN steps", "no such column"),
}


def _pages(content, fill_byte):
    """Every page but the first, which says that this is a database, is overwritten."""
    return content[:4096] + bytes([fill_byte]) * (len(content) - 4096)


#: How the bytes of a ledger are damaged.
BYTES = {
    "pages of zeros": lambda content: _pages(content, 0),
    "pages of noise": lambda content: _pages(content, 0xA7),
    "cut in half": lambda content: content[: len(content) // 2],
    "a photograph": lambda content: b"\xff\xd8\xff" + content[3:],
    "a text": lambda content: b"hello\n" * 1000,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a whole ledger."""
    folder = tmp_path_factory.mktemp("whole") / "search"
    with Ledger(folder, CONFIG, {"command": ["me"]}) as ledger:
        fill(ledger)
        ledger.add_reranked(0, 5, SCORED)
        ledger.commit()
    (folder / "driver.lock").unlink()
    return folder


def check_refused(folder, rule):
    """Reading and resuming say one thing, and change nothing."""
    path = folder / LEDGER_FILE
    before = path.read_bytes()
    with pytest.raises(UserError, match=rule) as read:
        read_ledger(folder)
    assert str(path) in str(read.value)
    with pytest.raises(UserError, match=re.escape(str(path))):
        Ledger(folder, CONFIG)
    assert path.read_bytes() == before
    assert [file.name for file in folder.iterdir()] == [LEDGER_FILE]


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_damaged_row_is_named(whole, tmp_path, name):
    statement, rule = STATEMENTS[name]
    folder = shutil.copytree(whole, tmp_path / "search")
    with contextlib.closing(sqlite3.connect(folder / LEDGER_FILE)) as connection:
        connection.execute(statement)
        connection.commit()
    check_refused(folder, re.escape(rule))


@pytest.mark.parametrize("name", BYTES)
def test_a_damaged_file_is_refused(whole, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "search")
    path = folder / LEDGER_FILE
    path.write_bytes(BYTES[name](path.read_bytes()))
    check_refused(folder, re.escape(str(path)))


def test_the_whole_ledger_is_read(whole):
    assert len(read_ledger(whole).entries) == 3


def test_a_locked_ledger_is_called_locked(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_file, "_LOCK_SECONDS", 0.01)
    folder = shutil.copytree(whole, tmp_path / "search")
    with contextlib.closing(sqlite3.connect(folder / LEDGER_FILE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="is locked by another process"):
            read_ledger(folder)
    assert len(read_ledger(folder).entries) == 3


def test_a_figure_names_the_field_that_a_config_lacks(whole):
    with pytest.raises(UserError, match=r"ledger\.sqlite is damaged: about, config: .*strategy"):
        load_searches([whole])


def test_what_was_read_at_the_start_is_what_the_ledger_says(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "search")
    with Ledger(folder, CONFIG, {"command": ["again"]}) as ledger:
        assert ledger.contents() == read_ledger(folder)
        assert len(ledger.contents().starts) == 2


def test_scores_without_one_of_the_networks_are_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "search")
    path = folder / LEDGER_FILE
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("""UPDATE results SET scores = '{"wide": 1}' WHERE reason IS NULL""")
        connection.commit()
    before = path.read_bytes()
    rule = r"candidate 0: scores is .* of all the networks wide, deep"
    with pytest.raises(UserError, match=rule):
        Ledger(folder, CONFIG, networks=ANCHORS)
    assert path.read_bytes() == before


def test_a_ledger_whose_config_lacks_rerank_is_not_reranked(whole, tmp_path, monkeypatch):
    from experiments import rerank

    folder = shutil.copytree(whole, tmp_path / "search")
    path = folder / LEDGER_FILE
    config = {**make_config(), "dataset": {}}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        values = (json.dumps(config),)
        connection.execute("UPDATE about SET value = ? WHERE key = 'config'", values)
        connection.commit()
    before = path.read_bytes()
    monkeypatch.setattr("sys.argv", ["rerank", "--workdir", str(folder)])
    with pytest.raises(UserError, match="rerank"):
        rerank.main()
    assert path.read_bytes() == before
