"""Which layers are scale-invariant, and the table of them in docs/layer_search.md."""

from pathlib import Path

import numpy as np
import pytest

from evonorm_jax.graphs import LIBRARY
from tests.layers import oracle
from tests.layers.scale_invariance import changes, graph_changes, graph_table, initial_params, table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "layer_search.md"

VARIANT = {"evonorm_b1", "evonorm_s0", "evonorm_s1", "evonorm_s2", "random", "random_rej"}


@pytest.mark.parametrize("name", oracle.LAYERS)
def test_all_others_are_invariant(name):
    if name in VARIANT:
        assert min(changes(name)) > 1
    else:
        assert max(changes(name)) < 1e-10


def test_s0_is_so_with_a_slope_that_makes_up_for_it():
    """s x sigmoid(v / s s x) / (s std): what a trained v can do, and no fixed one."""
    x, params = np.random.default_rng(1).normal(size=(2, 4, 4, 16)), initial_params("evonorm_s0")
    y = oracle.apply("evonorm_s0", x, params, groups=4, epsilon=0.0)
    scaled = params | {"v": params["v"] / 100}
    again = oracle.apply("evonorm_s0", 100 * x, scaled, groups=4, epsilon=0.0)
    np.testing.assert_allclose(again, y, rtol=1e-12)


def test_one_value_by_hand():
    """B1 of 1 and -1: the deviation is 1, (x + 1) rms 2 and 0; of 10 and -10: 10, 110 and -90."""
    x, params = np.array([1.0, -1.0]).reshape(1, 2, 1, 1), {"scale": 1.0, "bias": 0.0}
    for factor, expected in ((1, (1 / 2, -1)), (10, (10 / 110, -1))):
        y = oracle.apply("evonorm_b1", factor * x, params, groups=1, epsilon=0.0)
        assert y.ravel() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "evonorm_b1", "random_rej"])
def test_a_graph_changes_as_its_layer_does(name):
    np.testing.assert_allclose(graph_changes(LIBRARY[name]), changes(name), rtol=1e-10, atol=1e-10)


def test_the_table_of_graphs():
    assert graph_table([LIBRARY["evonorm_s0"]])[-1].endswith("` | 46 | 10 | 10 |")


def test_the_documented_table():
    assert "\n".join(table()) + "\n" in DOCUMENT.read_text("utf-8")
