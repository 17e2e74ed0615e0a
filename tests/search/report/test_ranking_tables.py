"""Rank correlations by hand and by SciPy, the tables and the figure of a ranking."""

import csv
import math

import numpy as np
import pytest
from scipy import stats

from evonorm_jax.errors import UserError
from evonorm_jax.search.report.ranking_figure import draw_ranking
from evonorm_jax.search.report.ranking_tables import (
    as_csv,
    as_markdown,
    ranked_scores,
    spearman,
    spearman_interval,
)
from evonorm_jax.search.run.proxy_ranking import LONG, layers_to_rank


def test_spearman_by_hand():
    """1 - 6 sum d^2 / (n (n^2 - 1)) without ties: d is 1, 1, 2, 1 and 1."""
    assert spearman([1, 2, 3, 4, 5], [2, 1, 5, 3, 4]) == pytest.approx(1 - 6 * 8 / 120)
    assert spearman([1, 2, 3], [-1, -4, -9]) == -1
    assert spearman([1, 2, 3], [math.exp(v) for v in (1, 2, 3)]) == 1


def test_equal_values_share_their_mean_rank():
    """Ranks 1.5, 1.5, 3 against 1, 2, 3: sums of products 1.5, of squares 1.5 and 2."""
    assert spearman([10, 10, 20], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x = rng.integers(6, size=40)  # with ties
    y = x + rng.normal(size=40)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_interval_is_about_that_of_fisher():
    """Fisher's transform puts 95 % within 1.96 sqrt(1.06 / (n - 3)) of its centre, for ranks."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    low, high = spearman_interval(x, y)
    assert -1 <= low < spearman(x, y) < high <= 1
    half = 1.96 * math.sqrt(1.06 / 27)
    centre = math.atanh(spearman(x, y))
    assert low == pytest.approx(math.tanh(centre - half), abs=0.1)
    assert high == pytest.approx(math.tanh(centre + half), abs=0.1)


LAYERS = layers_to_rank(0, 1, 1)


def records(protocol, accuracies):
    """A record of each of the first layers, with two networks around its accuracy."""
    return [
        {
            "protocol": protocol,
            "layer": layer.name,
            "origin": layer.origin,
            "graph": str(layer.graph),
            "cpu_seconds": 2.0,
            "scores": {"one": accuracy - 1, "other": accuracy + 1},
        }
        for layer, accuracy in zip(LAYERS, accuracies, strict=False)
    ]


RECORDS = [
    *records("pair", [10.0, 20.0, 30.0, 40.0]),
    *records("mobile", [10.0, 9.0, 8.0, 7.0]),
    *records(LONG, [12.0, 25.0, 50.0, 60.0]),
]


def test_layers_that_not_all_have_scored_are_left_out():
    scores = ranked_scores(RECORDS[:-1])
    assert scores.long == {"one": (11.0, 24.0, 49.0), "other": (13.0, 26.0, 51.0)}
    assert scores.layers == tuple(LAYERS[:3])
    assert scores.proxies == ["mobile", "pair"]  # as in the table of protocols
    assert scores.values[LONG] == (12.0, 25.0, 50.0)
    assert scores.trains == [1, 2]


def test_a_layer_trains_that_does_so_in_every_network():
    diverged = {**RECORDS[-1], "scores": {"one": 10.0, "other": 110.0}}
    assert ranked_scores([*RECORDS[:-1], diverged]).trains == [1, 2]
    assert ranked_scores(RECORDS).trains == [1, 2, 3]


@pytest.mark.parametrize("some", [[], RECORDS[:8], RECORDS[8:], RECORDS[:10]])
def test_too_few_scores(some):
    with pytest.raises(UserError, match="a rank correlation needs 3"):
        ranked_scores(some)


def test_tables():
    scores = ranked_scores(RECORDS)
    lines = as_markdown(scores).splitlines()
    assert lines[0].startswith("4 layers were trained for long: ")
    assert "3 of them train, which is to reach 20 % in each network." in lines[0]
    assert "| layers that train | with `one` alone | with `other` alone | long" in lines[2]
    cells = {line.split(" | ")[0]: line.split(" | ")[2:] for line in lines[2:]}
    assert cells["| `pair`"] == ["2.0", *["1.00 (1.00 to 1.00)"] * 4, "36.8 |"]
    assert cells["| `mobile`"][1] == "-1.00 (-1.00 to -1.00)"
    assert lines[-4].startswith(f"| {LAYERS[3].name} | 60.0 | 59.0 | 61.0 | 7.0 | 40.0 | `")
    rows = list(csv.reader(as_csv(scores).splitlines()))
    assert rows[0][:6] == ["layer", "origin", "mobile", "pair", LONG, f"{LONG}: one"]
    accuracies = ["10.00", "10.00", "12.00", "11.00", "13.00"]
    assert rows[1] == ["bn_relu", "known", *accuracies, *["2.0"] * 3, rows[1][-1]]
    assert len(rows) == 5


def test_no_correlation_where_all_are_equal():
    equal = [*records("pair", [10.0] * 4), *RECORDS[8:]]
    assert "| `pair` | both, 80 steps each | 2.0 |  |  |  |  | " in as_markdown(
        ranked_scores(equal)
    )


def test_figure():
    figure = draw_ranking(ranked_scores(RECORDS))
    panels = figure.axes[:2]
    assert [axis.get_title() for axis in panels] == [
        "mobile: rank correlation -1.00",
        "pair: rank correlation 1.00",
    ]
    for axis, first in zip(panels, ([10, 9, 8, 7], [10, 20, 30, 40]), strict=True):
        points = np.concatenate([dots.get_offsets() for dots in axis.collections])
        pairs = {(x, y) for x, y in points.tolist()}
        assert pairs == set(zip(first, [12, 25, 50, 60], strict=True))
