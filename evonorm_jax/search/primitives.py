"""The 24 primitives of the search space (arXiv:2004.02967v1, Table 1).

Twelve act on every value by itself, twelve are moments of a tensor over one of four index sets,
broadcast back to the shape of the tensor: b is the batch, w and h are the map, c the channels and
c/g the channels of one group.

>>> len(PRIMITIVES), PRIMITIVES["div"].formula, PRIMITIVES["std_whcg"].formula
(24, 'x / (y + eps sign(y))', 'sqrt(s2_{w,h,c/g}(x) + eps)')
>>> [name for name, primitive in PRIMITIVES.items() if primitive.batch_dependent]
['mean_bwh', 'std_bwh', 'rms_bwh']
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

#: Index sets by the suffix that the names of the aggregations have, and as the paper writes them.
INDEX_SETS: Mapping[str, str] = MappingProxyType(
    {"bwh": "b,w,h", "whc": "w,h,c", "wh": "w,h", "whcg": "w,h,c/g"}
)


@dataclasses.dataclass(frozen=True)
class Primitive:
    """One operation of the space.

    Attributes:
      name: as graphs write it.
      arity: 1 or 2.
      formula: in terms of `x` and, where the arity is 2, `y`; `mu` is a mean, `s2` the biased
        variance about it, `eps` a small number.
      commutative: whether the inputs may change places.
      moment: of an aggregation: "mean", "std" (centred) or "rms" (uncentred); else None.
      index_set: of an aggregation: a key of `INDEX_SETS`; else None.
    """

    name: str
    arity: int
    formula: str
    commutative: bool = False
    moment: str | None = None
    index_set: str | None = None

    @property
    def batch_dependent(self) -> bool:
        """Whether it mixes examples: a moving average takes its place in evaluation."""
        return self.index_set is not None and self.index_set.startswith("b")


_ELEMENTWISE = (
    Primitive("add", 2, "x + y", commutative=True),
    Primitive("mul", 2, "x y", commutative=True),
    Primitive("div", 2, "x / (y + eps sign(y))"),
    Primitive("max", 2, "max(x, y)", commutative=True),
    Primitive("neg", 1, "-x"),
    Primitive("sigmoid", 1, "1 / (1 + exp(-x))"),
    Primitive("tanh", 1, "tanh(x)"),
    Primitive("exp", 1, "exp(x)"),
    Primitive("log", 1, "sign(x) ln(|x| + eps)"),
    Primitive("abs", 1, "|x|"),
    Primitive("square", 1, "x^2"),
    Primitive("sqrt", 1, "sign(x) sqrt(|x|)"),
)

_AGGREGATED = {
    "mean": "mu_{%s}(x)",
    "std": "sqrt(s2_{%s}(x) + eps)",
    "rms": "sqrt(mu_{%s}(x^2) + eps)",
}

#: All of them by name, in the order of the paper's table.
PRIMITIVES: Mapping[str, Primitive] = MappingProxyType(
    {primitive.name: primitive for primitive in _ELEMENTWISE}
    | {
        f"{moment}_{suffix}": Primitive(
            f"{moment}_{suffix}", 1, formula % indices, moment=moment, index_set=suffix
        )
        for moment, formula in _AGGREGATED.items()
        for suffix, indices in INDEX_SETS.items()
    }
)
