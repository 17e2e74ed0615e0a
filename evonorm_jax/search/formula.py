"""The formula of a graph, for people: plain text, Unicode or LaTeX.

>>> from evonorm_jax.search.library import LIBRARY
>>> print(formula(LIBRARY["evonorm_b0"]))
x / max(std_bwh(x), x * v1 + std_wh(x))
>>> print(formula(LIBRARY["evonorm_s0"], "unicode"))
x σ(x v₁) / √s²[w,h,c/g](x)
>>> print(formula(LIBRARY["evonorm_s2"], "latex"))
\\frac{x \\, \\sigma(x)}{\\sqrt{\\mu_{w,h,c/g}(x^2)}}
>>> print(formula(LIBRARY["gn_swish"]))
z * sigmoid(z), z = v1 * (x - mean_whcg(x)) / std_whcg(x) + v0

What is used several times and is longer than two primitives gets a letter of its own. The epsilons
and the affine map that follows are left out. `ln` and the root keep the sign of their operand:
`sign(x) ln|x|`, `sign(x) sqrt(|x|)`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from evonorm_jax.search.canonical import canonical
from evonorm_jax.search.graph import INITIAL_NODES, Graph, Node
from evonorm_jax.search.primitives import INDEX_SETS, PRIMITIVES

Style = Literal["text", "unicode", "latex"]

#: Shared subexpressions of at least this many primitives are named; smaller ones are repeated.
_NAMED_SIZE = 3

_LETTERS = "zutrqpkjihfedcba"

# How tightly an expression holds together: a sum needs brackets inside a product.
_SUM, _QUOTIENT, _PRODUCT, _POWER, _ATOM = range(5)


@dataclasses.dataclass(frozen=True)
class _Notation:
    """How one style writes things; the operands of forms replace `{}`."""

    initial: tuple[str, ...]
    product: str
    quotient: str
    square: str
    forms: Mapping[str, str]
    comma: str
    #: How tightly a quotient holds together: beside a product without a sign it needs brackets.
    quotient_holds: int
    #: Whether it keeps its operands apart without brackets.
    fraction: bool = False


def _moments(mean: str, std: str, rms: str) -> dict[str, str]:
    """The forms of the twelve aggregations; SET stands for the index set."""
    return {
        f"{moment}_{name}": form.replace("SET", indices)
        for moment, form in (("mean", mean), ("std", std), ("rms", rms))
        for name, indices in INDEX_SETS.items()
    }


_NOTATIONS: Mapping[Style, _Notation] = MappingProxyType(
    {
        "text": _Notation(
            initial=INITIAL_NODES,
            product="{} * {}",
            quotient="{} / {}",
            square="{}^2",
            forms={name: f"{name}({{}})" for name in PRIMITIVES} | {"log": "ln({})"},
            comma=", ",
            quotient_holds=_PRODUCT,
        ),
        "unicode": _Notation(
            initial=("x", "0", "v₀", "v₁"),
            product="{} {}",
            quotient="{} / {}",
            square="{}²",
            forms={
                "max": "max({})",
                "sigmoid": "σ({})",
                "tanh": "tanh({})",
                "exp": "exp({})",
                "log": "ln({})",
                "abs": "|{}|",
                "sqrt": "√({})",
            }
            | _moments("μ[SET]({})", "√s²[SET]({})", "√μ[SET]({}²)"),
            comma=", ",
            quotient_holds=_QUOTIENT,
        ),
        "latex": _Notation(
            initial=("x", "0", "v_0", "v_1"),
            product=r"{} \, {}",
            quotient=r"\frac{{{}}}{{{}}}",
            square="{}^2",
            forms={
                "max": r"\max({})",
                "sigmoid": r"\sigma({})",
                "tanh": r"\tanh({})",
                "exp": r"\exp({})",
                "log": r"\ln({})",
                "abs": r"\left|{}\right|",
                "sqrt": r"\sqrt{{{}}}",
            }
            | _moments(
                r"\mu_{{SET}}({})", r"\sqrt{{s^2_{{SET}}({})}}", r"\sqrt{{\mu_{{SET}}({}^2)}}"
            ),
            comma=r", \quad ",
            quotient_holds=_POWER,
            fraction=True,
        ),
    }
)


def formula(graph: Graph, style: Style = "text") -> str:
    """The formula of the effective graph.

    Args:
      graph: any.
      style: "text" in the names of the primitives, "unicode", or "latex" without dollar signs.

    Returns:
      One line; named subexpressions follow after commas.
    """
    return _Writer(canonical(graph), _NOTATIONS[style]).write()


class _Writer:
    """Writes one canonical graph in one notation."""

    def __init__(self, graph: Graph, notation: _Notation) -> None:
        self._graph = graph
        self._notation = notation
        self._letters = self._name_shared()

    def write(self) -> str:
        texts = [self._expand(self._graph.output)[0]]
        texts += [f"{name} = {self._expand(index)[0]}" for index, name in self._letters.items()]
        return self._notation.comma.join(texts)

    def _name_shared(self) -> dict[int, str]:
        """Letters of the nodes that several others use, the last node first."""
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

    def _text(self, index: int, tightness: int) -> str:
        """A node as an operand that must hold together at least that tightly."""
        if index in self._letters:
            return self._letters[index]
        text, own = self._expand(index)
        return text if own >= tightness else f"({text})"

    def _expand(self, index: int) -> tuple[str, int]:
        """The text of a node in terms of its inputs, and how tightly it holds together."""
        if index < len(INITIAL_NODES):
            return self._notation.initial[index], _ATOM
        node, notation = self._graph[index], self._notation
        if node.primitive == "add":
            return self._sum(node), _SUM
        if node.primitive == "neg":
            return f"-{self._text(node.inputs[0], _QUOTIENT)}", _SUM
        if node.primitive == "mul":
            operands = [self._text(i, _PRODUCT) for i in node.inputs]
            return notation.product.format(*operands), _PRODUCT
        if node.primitive == "div" and notation.fraction:
            operands = [self._text(i, _SUM) for i in node.inputs]
            return notation.quotient.format(*operands), notation.quotient_holds
        if node.primitive == "div":
            above, below = node.inputs
            # Brackets keep a / (b * c) apart from a / b * c.
            quotient = self._text(above, _PRODUCT), self._text(below, _POWER)
            return notation.quotient.format(*quotient), notation.quotient_holds
        if node.primitive == "square":
            return notation.square.format(self._text(node.inputs[0], _ATOM)), _POWER
        form = notation.forms[node.primitive]
        tightness = _ATOM if form.endswith(("^2)", "²)", "^2)}}")) else _SUM  # squares its operand
        inner = ", ".join(self._text(i, tightness) for i in self._initial_last(node))
        return form.format(inner), _POWER if form.startswith("√") else _ATOM

    def _initial_last(self, node: Node) -> list[int]:
        """The inputs with `0` and `v0` behind what is larger, as one writes `max(z, 0)`."""
        return sorted(node.inputs, key=lambda i: i < len(INITIAL_NODES))

    def _sum(self, node: Node) -> str:
        """`a + b`, or `a - b` where an input is a negation of its own."""
        first, second = sorted(self._initial_last(node), key=self._is_negation)
        if self._is_negation(second):
            minus = self._text(self._graph[second].inputs[0], _QUOTIENT)
            return f"{self._text(first, _SUM)} - {minus}"
        return f"{self._text(first, _SUM)} + {self._text(second, _SUM)}"

    def _is_negation(self, index: int) -> bool:
        if index < len(INITIAL_NODES) or index in self._letters:
            return False
        return self._graph[index].primitive == "neg"
