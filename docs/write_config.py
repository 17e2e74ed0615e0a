"""Writes docs/config.md from the comments beside the fields of configs.

python -m docs.write_config

A comment at the end of a line says what the field of that line is. A comment above a field is about
that field and those that follow it without a blank line or another such comment.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "config.md"

HEAD = """# Every field of a config

`python -m docs.write_config` writes this page from the comments beside the fields. Any field is
overridden by `--config.FIELD=VALUE`, and `--print_config` shows the values of a run. A config file
sets values of its own: the defaults here are the neutral ones.
"""

#: Title, file, and what in the file has the fields: a function, or a dictionary with its prefix.
SECTIONS = (
    ("Every run, and classification", "configs/recipes.py", "base_config", ""),
    ("Images with one class each", "evonorm_jax/data/config.py", "_FIELDS", "dataset."),
    ("Instance segmentation", "configs/detection_recipes.py", "base_config", ""),
    (
        "Images with objects",
        "evonorm_jax/data/instances/config.py",
        "_FIELDS",
        "dataset.",
    ),
    ("Image synthesis", "configs/synthesis_recipes.py", "base_config", ""),
)


@dataclasses.dataclass(frozen=True)
class Field:
    """One field as its source has it.

    Attributes:
      name: Its dotted name.
      default: Its default, as it is written.
      group: The comment above it or above the first field of its group; "" without one.
      comment: The comment at the end of its line; "" without one.
    """

    name: str
    default: str
    group: str
    comment: str


class _Comments:
    """The comments of a file, by their lines."""

    def __init__(self, source: str):
        self._lines = source.splitlines()
        self._own_line: dict[int, str] = {}
        self._at_end: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                alone = token.line[: token.start[1]].isspace() or token.start[1] == 0
                comments = self._own_line if alone else self._at_end
                comments[token.start[0]] = token.string.lstrip("# ")

    def at_end(self, line: int) -> str:
        """The comment behind the code of a line."""
        return self._at_end.get(line, "")

    def above(self, line: int) -> str:
        """The comment on the lines above a line."""
        found: list[str] = []
        while (line := line - 1) in self._own_line:
            found.insert(0, self._own_line[line])
        return " ".join(found)

    def is_blank(self, line: int) -> bool:
        """Whether a line is empty."""
        return not self._lines[line - 1].strip()


def read_fields(file: str, name: str, prefix: str = "") -> list[Field]:
    """Reads the fields that a function of a file assigns, or that a dictionary of it holds.

    Args:
      file: Path of the file, from the root of the clone.
      name: Name of the function or dictionary.
      prefix: Stands before the names of a dictionary's fields.
    """
    source = (ROOT / file).read_text(encoding="utf-8")
    comments, fields = _Comments(source), []
    group, last_line = "", 0
    for field, value, first, last in _assignments(ast.parse(source), name, prefix):
        if above := comments.above(first):
            group = above
        elif comments.is_blank(first - 1) or first > last_line + 1:
            group = ""
        fields.append(
            Field(field, ast.get_source_segment(source, value) or "", group, comments.at_end(last))
        )
        last_line = last
    return fields


def _assignments(
    module: ast.Module, name: str, prefix: str
) -> Iterator[tuple[str, ast.expr, int, int]]:
    """Yields name, value, first and last line of every field, in the order of the file."""
    for node in module.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            assert isinstance(node.value, ast.Dict)
            yield from _entries(node.value, prefix)
        elif isinstance(node, ast.FunctionDef) and node.name == name:
            for statement in node.body:
                if isinstance(statement, ast.Assign):
                    target = ast.unparse(statement.targets[0])
                    if target.startswith("config."):
                        yield from _assigned(target.removeprefix("config."), statement)


def _assigned(name: str, statement: ast.Assign) -> Iterator[tuple[str, ast.expr, int, int]]:
    value = statement.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "ConfigDict":
        if value.args and isinstance(value.args[0], ast.Dict):
            yield from _entries(value.args[0], f"{name}.")
        return  # an empty block, whose fields another section has
    yield name, value, statement.lineno, statement.end_lineno or statement.lineno


def _entries(node: ast.Dict, prefix: str) -> Iterator[tuple[str, ast.expr, int, int]]:
    for key, value in zip(node.keys, node.values, strict=True):
        assert isinstance(key, ast.Constant)
        yield f"{prefix}{key.value}", value, key.lineno, value.end_lineno or value.lineno


def page() -> str:
    """Returns the text of docs/config.md."""
    parts = [HEAD]
    for title, file, name, prefix in SECTIONS:
        parts.append(f"\n## {title}\n\nFrom `{file}`.\n")
        group = None
        for field in read_fields(file, name, prefix):
            if field.group != group:
                group = field.group
                parts.append(f"\n{_escaped(group)}\n" if group else "")
                parts.append("\n| field | default | what it is |\n|---|---|---|\n")
            comment = _escaped(field.comment)
            parts.append(f"| `{field.name}` | `{field.default}` | {comment} |\n")
    return "".join(parts)


def _escaped(text: str) -> str:
    """Writes signs that mean something in Markdown as themselves."""
    return re.sub(r"([|*<])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
