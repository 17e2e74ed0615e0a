"""The rooms of the package stand as the table in CONTRIBUTING.md has them: no import goes up."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evonorm_jax"


def ranked_rooms():
    """Path of each room, such as `search/run/` or `errors.py`, with its row in the table."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    _, _, table = text.partition("| room | what is there |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    cells = [row.split("|")[1] for row in rows]
    return {room: i for i, cell in enumerate(cells) for room in re.findall(r"`([\w/.]+)`", cell)}


ROOMS = ranked_rooms()
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    """The room of a module; None for a package that holds rooms."""
    name = path.relative_to(PACKAGE).as_posix()
    rooms = [room for room in ROOMS if name == room or (room[-1] == "/" and name.startswith(room))]
    return rooms[0] if rooms else None


def imported_files(path):
    """The files of the package that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        for name in names:
            module = ROOT.joinpath(*name.split("."))
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_file() and file.is_relative_to(PACKAGE):
                    yield file


def imported_rooms(room):
    files = [path for path in FILES if room_of(path) == room]
    assert files, f"{room} holds no module"
    return {found for path in files for file in imported_files(path) if (found := room_of(file))}


def test_every_module_is_in_a_room():
    assert len(ROOMS) > 10
    assert {path.name for path in FILES if room_of(path) is None} == {"__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_above_it(room):
    up = {other for other in imported_rooms(room) if ROOMS[other] > ROOMS[room]}
    assert sorted(up) == []


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if re.match("analysis|search|sweeps", room)]
)
def test_the_loop_is_not_imported_by_what_reads_runs_or_searches(room):
    assert "training/" not in imported_rooms(room)
