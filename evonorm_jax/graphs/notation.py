"""How a formula writes a primitive: its form, and where brackets are needed.

>>> Notation("{} * {}", holds=Tightness.PRODUCT, operands=Tightness.PRODUCT).form.format("x", "v1")
'x * v1'
"""

import dataclasses
import enum
from typing import Literal

#: The three ways in which a formula can be written.
Style = Literal["text", "unicode", "latex"]


class Tightness(enum.IntEnum):
    """How tightly an expression holds together: a sum needs brackets inside a product."""

    SUM = 0
    QUOTIENT = 1
    PRODUCT = 2
    POWER = 3
    ATOM = 4


@dataclasses.dataclass(frozen=True)
class Notation:
    """How one style writes one primitive.

    Attributes:
      form: A format string in which the operands replace `{}`.
      holds: How tightly the written expression holds together.
      operands: How tightly an operand must hold together to be written without brackets; a pair
        where the two operands differ.
      initial_last: True writes the initial nodes behind other operands, as in `max(z, 0)`.
    """

    form: str
    holds: Tightness = Tightness.ATOM
    operands: Tightness | tuple[Tightness, Tightness] = Tightness.SUM
    initial_last: bool = False

    def operand(self, place: int) -> Tightness:
        """How tightly the operand at that place must hold together."""
        return self.operands[place] if isinstance(self.operands, tuple) else self.operands


def call(name: str, arity: int) -> Notation:
    """The notation `name(a, b)`.

    >>> call("max", 2).form
    'max({}, {})'
    """
    return Notation(f"{name}({', '.join(['{}'] * arity)})")
