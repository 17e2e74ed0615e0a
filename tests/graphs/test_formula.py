"""Formulas: those of the paper for the known layers, brackets where they are needed."""

import numpy as np
import pytest

from evonorm_jax.graphs.formula import formula
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.search.evolution.space import random_graph

KNOWN = {
    "bn_relu": "max(v1 * (x - mean_bwh(x)) / std_bwh(x) + v0, 0)",
    "gn_relu": "max(v1 * (x - mean_whcg(x)) / std_whcg(x) + v0, 0)",
    "gn_swish": "z * sigmoid(z), z = v1 * (x - mean_whcg(x)) / std_whcg(x) + v0",
    "frn": "max(v1 * x / rms_wh(x), v0)",
    "evonorm_b0": "x / max(std_bwh(x), x * v1 + std_wh(x))",
    "evonorm_b1": "x / max(std_bwh(x), rms_wh(x) + x * rms_wh(x))",
    "evonorm_b2": "x / max(std_bwh(x), rms_wh(x) - x)",
    "evonorm_s0": "x * sigmoid(x * v1) / std_whcg(x)",
    "evonorm_s1": "x * sigmoid(x) / std_whcg(x)",
    "evonorm_s2": "x * sigmoid(x) / rms_whcg(x)",
    "random": "sqrt(std_wh(sigmoid(abs(x))))",
    "random_rej": "tanh(max(tanh(x), x))",
    "rs_rej": "max(x, 0) / rms_bwh(x)",
}


def test_known_layers():
    assert {name: formula(graph) for name, graph in LIBRARY.items()} == KNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n4 = add(x, v1); n5 = mul(n4, x)", "x * (x + v1)"),
        ("n4 = mul(x, v1); n5 = div(v0, n4)", "v0 / (x * v1)"),
        ("n4 = div(x, v1); n5 = div(n4, v0)", "x / v1 / v0"),
        ("n4 = div(x, v1); n5 = div(v0, n4)", "v0 / (x / v1)"),
        ("n4 = neg(x); n5 = mul(n4, v1)", "v1 * (-x)"),
        ("n4 = add(x, v1); n5 = neg(n4)", "-(x + v1)"),
        ("n4 = mul(x, v1); n5 = neg(n4)", "-x * v1"),
        ("n4 = add(x, v1); n5 = neg(n4); n6 = add(n5, v0)", "v0 - (x + v1)"),
        ("n4 = neg(x); n5 = add(n4, n4)", "-x - x"),
        ("n4 = neg(x); n5 = neg(v1); n6 = add(n4, n5)", "-x - v1"),
        ("n4 = add(x, v1); n5 = square(n4)", "(x + v1)^2"),
        ("n4 = square(x); n5 = square(n4)", "(x^2)^2"),
        ("n4 = tanh(x); n5 = square(n4)", "tanh(x)^2"),
        ("n4 = square(x); n5 = div(v1, n4)", "v1 / x^2"),
        ("n4 = log(x); n5 = sqrt(n4)", "sqrt(ln(x))"),
        (
            "n4 = tanh(x); n5 = exp(n4); n6 = abs(n5); n7 = add(n6, x); n8 = mul(n6, n7);"
            "n9 = square(n8); n10 = div(n8, n9)",
            "z * (z + x) / (z * (z + x))^2, z = abs(exp(tanh(x)))",
        ),
        (
            "n4 = tanh(x); n5 = exp(n4); n6 = abs(n5); n7 = add(n6, x); n8 = mul(n6, n7);"
            "n9 = neg(n8); n10 = square(n9); n11 = div(n10, n9)",
            "z^2 / z, z = -u * (u + x), u = abs(exp(tanh(x)))",
        ),
    ],
)
def test_brackets_and_letters(text, expected):
    assert formula(Graph.from_text(text)) == expected


def test_other_styles():
    graph = Graph.from_text("n4 = add(x, v0); n5 = rms_whc(n4); n6 = div(x, n5); n7 = log(n6)")
    assert formula(graph, "unicode") == "ln(x / √μ[w,h,c]((x + v₀)²))"
    assert formula(graph, "latex") == r"\ln(\frac{x}{\sqrt{\mu_{w,h,c}((x + v_0)^2)}})"
    graph = Graph.from_text("n4 = std_wh(x); n5 = square(n4); n6 = abs(n5); n7 = exp(n6)")
    assert formula(graph, "unicode") == "exp(|(√s²[w,h](x))²|)"
    graph = Graph.from_text("n4 = div(x, v1); n5 = sigmoid(x); n6 = div(n5, v0); n7 = mul(n4, n6)")
    assert formula(graph) == "x / v1 * sigmoid(x) / v0"
    assert formula(graph, "unicode") == "(x / v₁) (σ(x) / v₀)"
    assert formula(graph, "latex") == r"\frac{x}{v_1} \, \frac{\sigma(x)}{v_0}"
    graph = Graph.from_text("n4 = div(x, v1); n5 = square(n4); n6 = neg(n4); n7 = add(n5, n6)")
    assert formula(graph, "unicode") == "(x / v₁)² - x / v₁"
    assert formula(graph, "latex") == r"(\frac{x}{v_1})^2 - \frac{x}{v_1}"


def test_latex_is_understood():
    """By matplotlib's parser, which raises for what is not LaTeX."""
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    rng = np.random.default_rng(0)
    for graph in [*LIBRARY.values(), *(random_graph(rng) for _ in range(20))]:
        parser.parse(f"${formula(graph, 'latex')}$")


def evaluate_text(text, values):
    """Python's own reading of a formula without aggregations."""
    expression, *bindings = text.split(", ") if " = " in text else [text]
    names = dict(values)
    for binding in reversed(bindings):
        name, _, right = binding.partition(" = ")
        names[name] = eval(right.replace("^", "**"), names)
    return eval(expression.replace("^", "**"), names)


def test_python_reads_random_formulas_as_the_graph_is():
    """Precedence, by a parser that is not ours; graphs without aggregations and `max`."""
    operations = {
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "square": lambda a: a**2,
        "abs": abs,
        "tanh": np.tanh,
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    }
    values = {"x": 0.7, "v0": -0.3, "v1": 1.9}
    rng = np.random.default_rng(0)
    names = list(operations)
    for _ in range(300):
        nodes = []
        for index in range(4, 12):
            name = names[rng.integers(len(names))]
            arity = 2 if name in ("add", "mul", "div") else 1
            nodes.append(
                (
                    name,
                    [(0, 2, 3, *range(4, index))[i] for i in rng.integers(index - 1, size=arity)],
                )
            )
        graph = Graph(tuple(nodes))
        leaves = [values["x"], 0.0, values["v0"], values["v1"]]
        with np.errstate(all="ignore"):
            try:
                expected = graph.fold(leaves, lambda _, p, inputs: operations[p.name](*inputs))
            except (ZeroDivisionError, OverflowError):
                continue
            got = evaluate_text(formula(graph), values | operations)
        np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=str(graph))
