"""The rooms of the package stand on one another: none imports what stands above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "evonorm_jax"

#: From the ground up; a room may import those before it. Names are modules or packages.
ROOMS = (
    "errors",
    "provenance",
    "run_files",
    "metrics",
    "display",
    "placement",
    "kernels",
    "layers",
    "graphs",
    "norm_act",
    "models",
    "interop",
    "data",
    "analysis",
    "training",
    "sweeps",
    "search.evolution",
    "search.engine",
    "search.run",
    "search.report",
    "benchmarks",
)


def room_of(module: str) -> str | None:
    """The room that a module such as "evonorm_jax.search.run.driver" lies in."""
    _, *parts = module.split(".")
    if not parts:
        return None  # the package itself, which says its version and lists the public names
    inner = ".".join(parts[:2])
    return inner if inner in ROOMS else parts[0]


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if "evonorm_jax" in alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evonorm_jax"):
            assert node.level == 0
            inner = node.module != "evonorm_jax"
            yield from [node.module] if inner else (f"evonorm_jax.{a.name}" for a in node.names)


def files_of(room: str) -> list[Path]:
    path = PACKAGE / room.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in files_of(room):
        for module in imported_modules(path):
            found = room_of(module)
            assert found is None or found in (*allowed, "__version__"), f"{path} imports {module}"


def test_every_file_lies_in_a_room():
    inside = {path for room in ROOMS for path in files_of(room)}
    outside = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {
        path.relative_to(PACKAGE).as_posix() for path in inside
    }
    assert outside == {"__init__.py", "search/__init__.py"}
