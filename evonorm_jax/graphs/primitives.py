"""The primitives of the search space, one row each (arXiv:2004.02967v1, Table 1: 24 of them).

Twelve act on every value by itself. Twelve are moments of a tensor over one of four index sets,
broadcast back to the shape of the tensor. This file alone knows what a primitive computes and how
it is written, so a new one is a new row here: values, gradients, layers, canonical forms, formulas,
drawings and the search follow from it.

>>> len(PRIMITIVES), PRIMITIVES["div"].formula, PRIMITIVES["std_whcg"].formula
(24, 'x / (y + eps sign(y))', 'sqrt(s2_{w,h,c/g}(x) + eps)')
>>> [name for name, primitive in PRIMITIVES.items() if primitive.batch_dependent]
['mean_bwh', 'std_bwh', 'rms_bwh']
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.notation import Notation, Style, Tightness, call
from evonorm_jax.graphs.reductions import (
    INDEX_SETS,
    STATISTICS,
    reduce_example,
    reduce_example_numpy,
)

#: What the functions of a primitive may take beside its inputs.
OPTIONS = ("epsilon", "division_epsilon", "num_groups", "batch")

#: The default of the option `epsilon`: that of the layers.
EPSILON = 1e-5

#: The default of the option `division_epsilon`, in the divisor y + eps sign(y). The paper's value
#: is not known and the authors' code of the found layers divides without one, so ours vanishes
#: beside any |y| > 2e-5 in float32, yet keeps the quotient and its derivative finite for every
#: other y but 0.
DIVISION_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Primitive:
    """One operation of the search space.

    >>> relu = Primitive("relu", 1, "max(x, 0)", nn.relu, lambda x: np.maximum(x, 0))
    >>> relu.notation("unicode").form, relu.label()
    ('relu({})', 'relu(·)')

    Attributes:
      name: The name that graphs use.
      arity: The number of inputs, 1 or 2.
      formula: The definition in terms of `x` and, where the arity is 2, `y`. `mu` is a mean, `s2`
        the biased variance about it, `eps` a small number.
      jax_function: Takes the inputs as arrays that broadcast against each other, and `options` by
        name. An aggregation gets `[N, h, w, C]`, with h and w those of the image or 1.
      numpy_function: The same in NumPy.
      options: Which of these the two functions take: `epsilon`; `division_epsilon`; `num_groups`,
        which divides the channels; `batch`, a function of the name of a statistic and of
        `[N, h, w, C]` that returns the statistic over the batch.
      commutative: Whether the inputs may change places.
      index_set: The type rule. None for a primitive that acts on every value by itself: its result
        has the broadcast shape of its inputs. For an aggregation a key of `INDEX_SETS`: its result
        broadcasts to `[N, 1, 1, C]`.
      statistic: For an aggregation over the batch, the statistic of which a layer keeps a running
        average: "mean", "var" or "mean_square".
      text: How a formula in plain text writes it, a `Notation` or its form; "" means `name(x)`.
      unicode: How a formula in Unicode writes it; "" means as in plain text.
      latex: How a formula in LaTeX writes it; "" means `name(x)` with an upright name.
      symbol: Its node in a drawing, where dots stand for the inputs; "" means `name(·)`.

    Raises:
      UserError: On construction, if a field has a value that it cannot have.
    """

    name: str
    arity: int
    formula: str
    jax_function: Callable[..., jax.Array]
    numpy_function: Callable[..., np.ndarray]
    options: tuple[str, ...] = ()
    commutative: bool = False
    index_set: str | None = None
    statistic: str | None = None
    text: Notation | str = ""
    unicode: Notation | str = ""
    latex: Notation | str = ""
    symbol: str = ""

    def __post_init__(self) -> None:
        self._check("arity", self.arity, (1, 2))
        self._check("index_set", self.index_set, (None, *INDEX_SETS))
        for option in self.options:
            self._check("options", option, OPTIONS)
        if self.batch_dependent:
            self._check("statistic", self.statistic, STATISTICS)

    def _check(self, field: str, value: object, known: tuple[object, ...]) -> None:
        if value not in known:
            choices = ", ".join(map(repr, known))
            raise UserError(f"primitive {self.name!r}: {field} must be of {choices}, not {value!r}")

    @property
    def batch_dependent(self) -> bool:
        """Whether it mixes examples, so that a moving average takes its place in evaluation."""
        return self.index_set is not None and self.index_set.startswith("b")

    def notation(self, style: Style) -> Notation:
        """Returns how formulas of that style write the primitive."""
        written = {"text": self.text, "unicode": self.unicode or self.text, "latex": self.latex}
        notation = written[style]
        if isinstance(notation, Notation):
            return notation
        if notation:
            return Notation(notation)
        escaped = self.name.replace("_", r"\_")
        upright = rf"\operatorname{{{{{escaped}}}}}"
        return call(upright if style == "latex" else self.name, self.arity)

    def label(self) -> str:
        """Returns the text of its node in a drawing."""
        return self.symbol or call(self.name, self.arity).form.format(*["·"] * self.arity)


def signed_sqrt(x: jax.Array) -> jax.Array:
    """Computes `sign(x) sqrt(|x|)`, with the derivative at 0 taken as 0.

    The derivative is infinite there. In `sqrt(max(x, 0))`, which is constant for x < 0, infinity
    times 0 would make NaN of it.
    """
    zero = x == 0
    return jnp.where(zero, 0, jnp.sign(x) * jnp.sqrt(jnp.abs(jnp.where(zero, 1, x))))


_SUM, _QUOTIENT, _PRODUCT, _POWER, _ATOM = Tightness

_ELEMENTWISE = (
    Primitive(
        "add",
        arity=2,
        formula="x + y",
        jax_function=jnp.add,
        numpy_function=np.add,
        commutative=True,
        text=Notation("{} + {}", holds=_SUM, initial_last=True),
        latex=Notation("{} + {}", holds=_SUM, initial_last=True),
        symbol="·  +  ·",
    ),
    Primitive(
        "mul",
        arity=2,
        formula="x y",
        jax_function=jnp.multiply,
        numpy_function=np.multiply,
        commutative=True,
        text=Notation("{} * {}", holds=_PRODUCT, operands=_PRODUCT),
        unicode=Notation("{} {}", holds=_PRODUCT, operands=_PRODUCT),
        latex=Notation(r"{} \, {}", holds=_PRODUCT, operands=_PRODUCT),
        symbol="·  ×  ·",
    ),
    Primitive(
        "div",
        arity=2,
        formula="x / (y + eps sign(y))",
        jax_function=lambda x, y, *, division_epsilon: x / (y + division_epsilon * jnp.sign(y)),
        numpy_function=lambda x, y, *, division_epsilon: x / (y + division_epsilon * np.sign(y)),
        options=("division_epsilon",),
        # Brackets keep a / (b * c) apart from a / b * c.
        text=Notation("{} / {}", holds=_PRODUCT, operands=(_PRODUCT, _POWER)),
        # Beside a product that is written without a sign, a quotient needs brackets.
        unicode=Notation("{} / {}", holds=_QUOTIENT, operands=(_PRODUCT, _POWER)),
        latex=Notation(r"\frac{{{}}}{{{}}}", holds=_POWER),
        symbol="a / b",
    ),
    Primitive(
        "max",
        arity=2,
        formula="max(x, y)",
        jax_function=jnp.maximum,
        numpy_function=np.maximum,
        commutative=True,
        text=Notation("max({}, {})", initial_last=True),
        latex=Notation(r"\max({}, {})", initial_last=True),
    ),
    Primitive(
        "neg",
        arity=1,
        formula="-x",
        jax_function=jnp.negative,
        numpy_function=np.negative,
        text=Notation("-{}", holds=_SUM, operands=_QUOTIENT),
        latex=Notation("-{}", holds=_SUM, operands=_QUOTIENT),
        symbol="−  ·",
    ),
    Primitive(
        "sigmoid",
        arity=1,
        formula="1 / (1 + exp(-x))",
        jax_function=nn.sigmoid,
        numpy_function=lambda x: np.exp(-np.logaddexp(0, -x)),  # no overflow, all digits
        unicode="σ({})",
        latex=r"\sigma({})",
        symbol="σ(·)",
    ),
    Primitive("tanh", 1, "tanh(x)", jnp.tanh, np.tanh, latex=r"\tanh({})"),
    Primitive("exp", 1, "exp(x)", jnp.exp, np.exp, latex=r"\exp({})"),
    Primitive(
        "log",
        arity=1,
        formula="sign(x) ln(|x| + eps)",
        jax_function=lambda x, *, epsilon: jnp.sign(x) * jnp.log(jnp.abs(x) + epsilon),
        numpy_function=lambda x, *, epsilon: np.sign(x) * np.log(np.abs(x) + epsilon),
        options=("epsilon",),
        text="ln({})",
        latex=r"\ln({})",
        symbol="ln|·|",
    ),
    Primitive(
        "abs",
        arity=1,
        formula="|x|",
        jax_function=jnp.abs,
        numpy_function=np.abs,
        unicode="|{}|",
        latex=r"\left|{}\right|",
        symbol="|·|",
    ),
    Primitive(
        "square",
        arity=1,
        formula="x^2",
        jax_function=jnp.square,
        numpy_function=np.square,
        text=Notation("{}^2", holds=_POWER, operands=_ATOM),
        unicode=Notation("{}²", holds=_POWER, operands=_ATOM),
        latex=Notation("{}^2", holds=_POWER, operands=_ATOM),
        symbol="(·)²",
    ),
    Primitive(
        "sqrt",
        arity=1,
        formula="sign(x) sqrt(|x|)",
        jax_function=signed_sqrt,
        numpy_function=lambda x: np.sign(x) * np.sqrt(np.abs(x)),
        unicode=Notation("√({})", holds=_POWER),
        latex=r"\sqrt{{{}}}",
        symbol="√|·|",
    ),
)


def _moment(
    reduce: Callable[..., Any],
    sqrt: Callable[[Any], Any],
    statistic: str,
    index_set: str,
    x: Any,
    *,
    epsilon: float,
    num_groups: int,
    batch: Callable[[str, Any], Any],
) -> Any:
    """Computes the mean, or the root of another statistic, over an index set."""
    if index_set == "bwh":
        value = batch(statistic, x)
    else:
        value = reduce(statistic, index_set, x, num_groups)
    return value if statistic == "mean" else sqrt(value + epsilon)


def _moment_rows(
    name: str, *, statistic: str, formula: str, unicode: Notation, latex: Notation, symbol: str
) -> Iterator[Primitive]:
    """Yields one moment over each index set, which SET stands for."""
    for suffix, indices in INDEX_SETS.items():
        arguments = (statistic, suffix)
        yield Primitive(
            f"{name}_{suffix}",
            arity=1,
            formula=formula.replace("SET", indices),
            jax_function=functools.partial(_moment, reduce_example, jnp.sqrt, *arguments),
            numpy_function=functools.partial(_moment, reduce_example_numpy, np.sqrt, *arguments),
            options=("epsilon", "num_groups", "batch"),
            index_set=suffix,
            statistic=statistic,
            unicode=dataclasses.replace(unicode, form=unicode.form.replace("SET", indices)),
            latex=dataclasses.replace(latex, form=latex.form.replace("SET", indices)),
            symbol=symbol.replace("SET", indices),
        )


_AGGREGATIONS = (
    *_moment_rows(
        "mean",
        statistic="mean",
        formula="mu_{SET}(x)",
        unicode=Notation("μ[SET]({})"),
        latex=Notation(r"\mu_{{SET}}({})"),
        symbol="μ[SET]",
    ),
    *_moment_rows(
        "std",
        statistic="var",
        formula="sqrt(s2_{SET}(x) + eps)",
        unicode=Notation("√s²[SET]({})", holds=_POWER),
        latex=Notation(r"\sqrt{{s^2_{{SET}}({})}}"),
        symbol="√s²[SET]",
    ),
    *_moment_rows(
        "rms",
        statistic="mean_square",
        formula="sqrt(mu_{SET}(x^2) + eps)",
        unicode=Notation("√μ[SET]({}²)", holds=_POWER, operands=_ATOM),
        latex=Notation(r"\sqrt{{\mu_{{SET}}({}^2)}}", operands=_ATOM),
        symbol="√μ²[SET]",
    ),
)

#: All primitives by name, in the order of the paper's table. A program may add rows of its own
#: before it reads graphs that use them. The workers of a search import this file, so a row that
#: they are to know stands here.
PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive for primitive in (*_ELEMENTWISE, *_AGGREGATIONS)
}
