"""Which layers notice that their input was multiplied: `python -m tests.layers.scale_invariance`.

Prints the table of docs/layer_search.md: for each layer, by the float64 oracle without an epsilon,
the largest change of an output when x is multiplied by a factor, in percent of the largest output.
Graph files behind the command are the table's layers instead: `... runs/s/winners/*.json`.
"""

import sys
from collections.abc import Callable

import numpy as np

from evonorm_jax.graphs import Graph, formula
from evonorm_jax.graphs.values import evaluate_numpy
from tests.layers import oracle

FACTORS = (0.1, 10, 100)

_CHANNELS = 16
_X = np.random.default_rng(0).normal(size=(8, 8, 8, _CHANNELS))


def initial_params(name: str) -> oracle.Params:
    """The parameters as layers initialise them."""
    params = {"scale": np.ones(_CHANNELS), "bias": np.zeros(_CHANNELS)}
    for extra, size in oracle.EXTRA_PARAMS.get(name, {}).items():
        initial = np.ones if extra in ("v", "gate", "mean_mixture", "var_mixture") else np.zeros
        params[extra] = initial(size or _CHANNELS)
    return params


def changes(name: str) -> list[float]:
    """The changes of a layer for each factor, in percent."""
    return _changes(lambda x: oracle.apply(name, x, initial_params(name), groups=4, epsilon=0.0))


def graph_changes(graph: Graph) -> list[float]:
    """The changes of a graph for each factor, in percent."""
    v0, v1 = np.zeros(_CHANNELS), np.ones(_CHANNELS)
    without = {"epsilon": 0.0, "division_epsilon": 0.0}
    return _changes(lambda x: evaluate_numpy(graph, x, v0, v1, num_groups=4, **without))


def _changes(output: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    y = output(_X)
    return [float(100 * abs(output(a * _X) - y).max() / abs(y).max()) for a in FACTORS]


def table() -> list[str]:
    """A row for each layer that changes by more than rounding, and one for all others."""
    found = {name: changes(name) for name in oracle.LAYERS}
    variant = {name: values for name, values in found.items() if max(values) > 1e-10}
    rest = [f"| the other {len(found) - len(variant)} | 0 | 0 | 0 |"]
    return [*_HEAD, *(_row(name, values) for name, values in variant.items()), *rest]


def graph_table(graphs: list[Graph]) -> list[str]:
    """A row for each graph."""
    texts = [formula(graph, "unicode").replace("|", r"\|") for graph in graphs]
    rows = [_row(text, graph_changes(graph)) for text, graph in zip(texts, graphs, strict=True)]
    return [*_HEAD, *rows]


_HEAD = ["| layer | x 0.1 (%) | x 10 (%) | x 100 (%) |", "|---|---|---|---|"]


def _row(name: str, values: list[float]) -> str:
    return f"| `{name}` | {' | '.join(f'{value:.0f}' for value in values)} |"


if __name__ == "__main__":
    paths = sys.argv[1:]
    print("\n".join(graph_table([Graph.load(path) for path in paths]) if paths else table()))
