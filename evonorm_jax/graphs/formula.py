r"""The formula of a graph, for people: plain text, Unicode or LaTeX.

>>> from evonorm_jax.graphs.library import LIBRARY
>>> print(formula(LIBRARY["evonorm_b0"]))
x / max(std_bwh(x), x * v1 + std_wh(x))
>>> print(formula(LIBRARY["evonorm_s0"], "unicode"))
x σ(x v₁) / √s²[w,h,c/g](x)
>>> print(formula(LIBRARY["evonorm_s2"], "latex"))
\frac{x \, \sigma(x)}{\sqrt{\mu_{w,h,c/g}(x^2)}}
>>> print(formula(LIBRARY["gn_swish"]))
z * sigmoid(z), z = v1 * (x - mean_whcg(x)) / std_whcg(x) + v0

A subexpression that is used several times and has more than two primitives gets a letter. The
epsilons and the affine map that follows are left out. `ln` and the root keep the sign of their
operand: `sign(x) ln|x|`, `sign(x) sqrt(|x|)`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import INITIAL_NODES, Graph
from evonorm_jax.graphs.notation import Style, Tightness
from evonorm_jax.graphs.primitives import PRIMITIVES

#: The initial nodes in Unicode.
INITIAL_SYMBOLS = ("x", "0", "v₀", "v₁")

#: Shared subexpressions of at least this many primitives are named; smaller ones are repeated.
_NAMED_SIZE = 3

_LETTERS = "zutrqpkjihfedcba"


@dataclasses.dataclass(frozen=True)
class _StyleSigns:
    """What a style writes beside the primitives."""

    initial: tuple[str, ...]
    comma: str


_SIGNS: Mapping[Style, _StyleSigns] = MappingProxyType(
    {
        "text": _StyleSigns(INITIAL_NODES, ", "),
        "unicode": _StyleSigns(INITIAL_SYMBOLS, ", "),
        "latex": _StyleSigns(("x", "0", "v_0", "v_1"), r", \quad "),
    }
)


def formula(graph: Graph, style: Style = "text") -> str:
    """Writes the formula of the effective graph.

    Args:
      graph: The graph.
      style: "text" uses the names of the primitives, "unicode" mathematical signs, and "latex"
        LaTeX without dollar signs.

    Returns:
      One line; named subexpressions follow after commas.
    """
    return _Writer(canonical(graph), style).write()


class _Writer:
    """Writes one canonical graph in one style."""

    def __init__(self, graph: Graph, style: Style) -> None:
        self._graph = graph
        self._style = style
        self._letters = self._name_shared()

    def write(self) -> str:
        texts = [self._expand(self._graph.output)[0]]
        texts += [f"{name} = {self._expand(index)[0]}" for index, name in self._letters.items()]
        return _SIGNS[self._style].comma.join(texts)

    def _name_shared(self) -> dict[int, str]:
        """Gives letters to nodes that several others use, the last node first."""
        uses = Counter(i for node in self._graph.nodes for i in node.inputs)
        sizes = dict.fromkeys(range(len(INITIAL_NODES)), 0)
        shared = []
        for index in range(len(INITIAL_NODES), self._graph.output + 1):
            sizes[index] = 1 + sum(sizes[i] for i in self._graph[index].inputs)
            if uses[index] > 1 and sizes[index] >= _NAMED_SIZE:
                shared.append(index)
                sizes[index] = 0  # written as one letter from here on
        names = [*_LETTERS, *(f"z{i}" for i in range(len(shared)))]
        return dict(zip(reversed(shared), names, strict=False))

    def _text(self, index: int, tightness: Tightness) -> str:
        """Writes a node as an operand that must hold together at least that tightly."""
        if index in self._letters:
            return self._letters[index]
        text, own = self._expand(index)
        return text if own >= tightness else f"({text})"

    def _expand(self, index: int) -> tuple[str, Tightness]:
        """Writes a node in terms of its inputs; returns also how tightly that holds together."""
        if index < len(INITIAL_NODES):
            return _SIGNS[self._style].initial[index], Tightness.ATOM
        node = self._graph[index]
        notation = PRIMITIVES[node.primitive].notation(self._style)
        inputs: Sequence[int] = node.inputs
        if notation.initial_last:
            inputs = sorted(inputs, key=lambda i: i < len(INITIAL_NODES))
        if node.primitive == "add" and any(map(self._is_negation, inputs)):
            return self._difference(inputs), notation.holds
        operands = [self._text(i, notation.operand(place)) for place, i in enumerate(inputs)]
        return notation.form.format(*operands), notation.holds

    def _difference(self, inputs: Sequence[int]) -> str:
        """Writes a sum as `a - b`, where an input is a negation of its own."""
        first, second = sorted(inputs, key=self._is_negation)
        minus = self._text(self._graph[second].inputs[0], Tightness.QUOTIENT)
        return f"{self._text(first, Tightness.SUM)} - {minus}"

    def _is_negation(self, index: int) -> bool:
        if index < len(INITIAL_NODES) or index in self._letters:
            return False
        return self._graph[index].primitive == "neg"
