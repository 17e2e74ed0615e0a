"""Rules of config fields: of which type a value is, and within which range it lies.

A config comes from a user's file, from a command line or from JSON. Its fields stand in tables of
rules, and all of them are checked at once before anything is done with them.

>>> rules = {"rate": number(above=0), "optimizer.momentum": number(at_least=0, below=1)}
>>> check_fields({"rate": 0.1, "optimizer": {"momentum": 0.9}}, rules, "config")
>>> check_fields({"rate": 0.1, "optimizer": {"momentum": 2.0}}, rules, "config")
Traceback (most recent call last):
    ...
evonorm_jax.errors.UserError: config.optimizer.momentum=2.0; it must be at least 0 and below 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evonorm_jax.errors import UserError

#: The largest whole number that an array index, a step or a count can be.
LARGEST_WHOLE = 2**31 - 1

#: Numbers that are beyond float32 would be infinite on the device.
LARGEST_NUMBER = 3.4e38


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold.

    Attributes:
      kind: What it is, such as "a finite number".
      is_kind: Tells whether a value is that.
      range: Where it lies, such as "at least 0 and below 1"; "" for anywhere.
      in_range: Tells whether a value of that kind lies there.
    """

    kind: str
    is_kind: Callable[[Any], bool]
    range: str = ""
    in_range: Callable[[Any], bool] = lambda value: True

    def check(self, name: str, value: Any) -> None:
        """Refuses a value.

        Raises:
          UserError: It is of another kind or lies elsewhere.
        """
        if not self.is_kind(value):
            rule = ", ".join(filter(None, (self.kind, self.range)))
        elif not self.in_range(value):
            rule = self.range
        else:
            return
        raise UserError(f"{name}={shorten(value)}; it must be {rule}.")


def whole(at_least: int | None = None, at_most: int = LARGEST_WHOLE) -> Rule:
    """Whole numbers; True is none."""
    least = -at_most if at_least is None else at_least
    parts = [] if at_least is None else [f"at least {at_least:,}"]
    kind = "a whole number"
    if at_most == LARGEST_WHOLE:  # of which the range says nothing: nobody means so much
        kind = f"a whole number up to {at_most:,}"
    else:
        parts.append(f"at most {at_most:,}")
    return Rule(
        kind,
        lambda value: type(value) is int and (at_most < LARGEST_WHOLE or value <= at_most),
        " and ".join(parts),
        lambda value: least <= value <= at_most,
    )


def seed() -> Rule:
    """Whole numbers that a generator can be seeded with."""
    return Rule(
        "a whole number",
        lambda value: type(value) is int,
        "at least 0 and below 2**63",
        lambda value: 0 <= value < 2**63,
    )


def number(
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Rule:
    """Numbers that float32 holds, whole ones included."""
    limits: list[tuple[str, float | None, Callable[[Any, Any], bool]]] = [
        ("at least", at_least, lambda value, limit: value >= limit),
        ("above", above, lambda value, limit: value > limit),
        ("below", below, lambda value, limit: value < limit),
        ("at most", at_most, lambda value, limit: value <= limit),
    ]
    given = [(word, limit, holds) for word, limit, holds in limits if limit is not None]
    return Rule(
        "a finite number",
        is_finite_number,
        " and ".join(f"{word} {limit:g}" for word, limit, _ in given),
        lambda value: all(holds(value, limit) for _, limit, holds in given),
    )


def flag() -> Rule:
    """True or False."""
    return Rule("True or False", lambda value: type(value) is bool)


def text() -> Rule:
    """Any text, which whoever reads it looks up."""
    return Rule("a text", lambda value: isinstance(value, str))


def one_of(names: Sequence[str]) -> Rule:
    """One of some texts."""
    return Rule(
        "a text",
        lambda value: isinstance(value, str),
        " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}",
        lambda value: value in names,
    )


def several(rule: Rule) -> Rule:
    """Tuples, or lists as JSON has them, of what another rule allows."""
    return Rule(
        f"a tuple, each item {', '.join(filter(None, (rule.kind, rule.range)))}",
        lambda value: (
            isinstance(value, tuple | list)
            and all(rule.is_kind(item) and rule.in_range(item) for item in value)
        ),
    )


def optional(rule: Rule) -> Rule:
    """What another rule allows, or None."""
    return Rule(
        f"None or {rule.kind}",
        lambda value: value is None or rule.is_kind(value),
        rule.range,
        lambda value: value is None or rule.in_range(value),
    )


def chosen_if(rule: Rule, value: int, chooser: str) -> Rule:
    """What another rule allows, or a value that leaves the choice to something else.

    >>> chosen_if(whole(1), -1, "the data").check("steps", -1)
    >>> chosen_if(whole(1), -1, "the data").check("steps", 0)
    Traceback (most recent call last):
        ...
    evonorm_jax.errors.UserError: steps=0; it must be at least 1, or -1, which lets the data choose.
    """
    return Rule(
        rule.kind,
        rule.is_kind,
        f"{rule.range}, or {value}, which lets {chooser} choose",
        lambda given: given == value or rule.in_range(given),
    )


def block() -> Rule:
    """Fields by their names."""
    return Rule("a block of fields", _is_block)


def like(value: Any) -> Rule:
    """What is of the type of a default value.

    >>> like((127.5,)).check("mean", (100,))
    >>> like((127.5,)).check("mean", ("a",))
    Traceback (most recent call last):
        ...
    evonorm_jax.errors.UserError: mean=('a',); it must be a tuple, each item a finite number.
    """
    simple = {bool: flag, int: whole, float: number, str: text}
    if type(value) in simple:
        return simple[type(value)]()
    if isinstance(value, tuple | list) and value:
        return several(like(value[0]))
    return Rule("a value", lambda _: True)


def is_finite_number(value: Any) -> bool:
    """Tells whether a value is a plain number that is finite in float32; True is none."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (type(value) is int or math.isfinite(value))
        and abs(value) <= LARGEST_NUMBER
    )


def check_fields(
    content: Any, rules: Mapping[str, Rule], name: str, *, required: bool = True
) -> None:
    """Refuses content whose fields do not keep the rules.

    Args:
      content: Nested mappings, such as a `ConfigDict`.
      rules: Rules by the dotted names of the fields.
      name: What the content is called in messages, such as "config".
      required: Whether every field that has a rule must be there.

    Raises:
      UserError: A value breaks its rule, or a field is missing.
    """
    for field, rule in rules.items():
        found, value = _find(content, field, name, required=required)
        if found:
            rule.check(f"{name}.{field}" if name else field, value)


def check_known(content: Mapping[str, Any], known: Sequence[str], name: str) -> None:
    """Refuses fields that there are none of.

    Raises:
      UserError: There is one.
    """
    if unknown := sorted(map(str, set(content.keys()) - set(known))):
        raise UserError(
            f"{name} has no field {unknown[0]!r}. It has: {', '.join(sorted(known)) or 'none'}."
        )


def check_plain(value: Any, name: str) -> None:
    """Refuses what a config cannot keep: objects, and numbers that are not finite.

    Raises:
      UserError: There is one, at whatever depth.
    """
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        if not is_finite_number(value):
            raise UserError(f"{name}={shorten(value)}; it must be a finite number.")
    elif _is_block(value):
        for key, part in value.items():
            if not isinstance(key, str) or "." in key:
                raise UserError(
                    f"{name} has a field {shorten(key)}; names of fields are texts without dots."
                )
            check_plain(part, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for place, part in enumerate(value):
            check_plain(part, f"{name}[{place}]")
    else:
        raise UserError(
            f"{name}={shorten(value)}; it must be a number, a text, True, False or None, or a "
            f"tuple or a block of these, not {type(value).__name__}."
        )


def shorten(value: Any) -> str:
    """Returns a value as a message quotes it, in about a hundred characters."""
    try:
        quoted = repr(value)
    except ValueError:  # a whole number of thousands of digits
        quoted = f"{type(value).__name__}(...)"
    quoted = " ".join(quoted.split())
    return quoted if len(quoted) <= 100 else f"{quoted[:97]}..."


def _is_block(value: Any) -> bool:
    # A ConfigDict is no Mapping, and ml_collections need not be installed where layers are used.
    return isinstance(value, Mapping) or type(value).__name__ == "ConfigDict"


def _find(content: Any, field: str, name: str, *, required: bool) -> tuple[bool, Any]:
    """Returns whether a field is there, and its value."""
    walked, node = name, content
    for part in field.split("."):
        if not _is_block(node):
            block().check(walked, node)
        if part not in node:
            if required:
                raise UserError(
                    f"{walked} has no field {part!r}, which it must have. It has: "
                    f"{', '.join(sorted(node.keys())) or 'none'}."
                )
            return False, None
        node, walked = node[part], f"{walked}.{part}" if walked else part
    return True, node
