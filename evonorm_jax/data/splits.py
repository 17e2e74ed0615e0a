"""Splits by name, with TFDS's notation for a part of one: "train[:90%]", "train[45000:]"."""

from __future__ import annotations

import re

from evonorm_jax.errors import UserError

_PATTERN = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?")


def parse_split(text: str) -> tuple[str, str, str]:
    """Splits a text into the name of a split and the bounds of its part ("" where open).

    >>> parse_split("train[:90%]")
    ('train', '', '90%')
    """
    if not (match := _PATTERN.fullmatch(text)):
        raise UserError(
            f"Split '{text}' cannot be read: write a name, or a part of one as 'train[:90%]' or"
            " 'train[45000:]'."
        )
    return match["name"], match["start"] or "", match["stop"] or ""


def split_slice(text: str, num_examples: int) -> slice:
    """Returns the examples of the named split that `text` takes.

    >>> split_slice("train[:90%]", 50_000)
    slice(0, 45000, None)

    Raises:
      UserError: The part is empty or reaches past the end.
    """

    def bound(value: str, default: int) -> int:
        if not value:
            return default
        if value.endswith("%"):
            return round(int(value[:-1]) / 100 * num_examples)
        return int(value)

    _, start_text, stop_text = parse_split(text)
    start, stop = bound(start_text, 0), bound(stop_text, num_examples)
    if not 0 <= start < stop <= num_examples:
        raise UserError(
            f"Split '{text}' takes the examples {start} to {stop} of {num_examples}: a part must"
            " hold at least one example and end within the split."
        )
    return slice(start, stop)
