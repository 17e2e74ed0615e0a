"""Rates of false rejects from records by hand, and their tables."""

import csv

import pytest

from evonorm_jax.graphs import LIBRARY
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.protocol import AbortRule, ProxyProtocol
from evonorm_jax.search.report.false_reject_rates import (
    Rate,
    abort_rate,
    as_csv,
    as_markdown,
    filter_rates,
)
from evonorm_jax.search.run.false_rejects import KNOWN, SURVIVES


def test_bound_by_hand():
    """Wilson with z = 1.96: 0 of 39 gives z^2 / (n + z^2)."""
    assert Rate(0, 39).upper == pytest.approx(1.96**2 / (39 + 1.96**2))
    assert Rate(5, 10).upper == pytest.approx(0.7634, abs=1e-4)
    assert Rate(0, 0).upper == 1


def record(kind, reason, losses=(), accuracy=None, function=""):
    quality = {} if accuracy is None else {"net": accuracy}
    details = {"losses": {"net": list(losses)}, "quality": quality, "function": function}
    return {"filter": kind, "graph": "", "reason": reason, "details": details}


RECORDS = [
    record("dead", None),
    record("dead", "low_accuracy"),
    record("blow_up", "nonfinite_loss"),
    record(SURVIVES, None, [2.4, 2.1], 40.0),
    record(SURVIVES, None, [2.3, 2.25], 30.0),
    record(SURVIVES, "low_accuracy", [2.4, 2.31], 10.0),
    record(SURVIVES, "low_accuracy", [2.3, 2.2], 15.0),
    record(SURVIVES, "nonfinite_loss", [float("nan")]),  # no rule would have met it
]


def test_rates_of_filters():
    rates = filter_rates(RECORDS)
    assert rates == {"dead": Rate(1, 2), "blow_up": Rate(0, 1), SURVIVES: Rate(2, 5)}


def test_a_duplicate_is_judged_by_the_first_of_its_function():
    records = [
        record(SURVIVES, None, function="good"),
        record(SURVIVES, "low_accuracy", function="bad"),
        record("duplicate", None, function="good"),
        record("duplicate", "low_accuracy", function="good"),
        record("duplicate", None, function="bad"),
        record("duplicate", None, function="not trained"),
    ]
    rates = filter_rates(records)
    assert rates == {"duplicate": Rate(1, 3), SURVIVES: Rate(1, 2)}


@pytest.mark.parametrize(
    ("rule", "wrong", "caught"),
    [
        (AbortRule(20, 10, 2.3), Rate(0, 1), Rate(1, 2)),
        (AbortRule(20, 10, 2.22), Rate(1, 2), Rate(1, 2)),
        (AbortRule(20, 20, 2.26), Rate(1, 2), Rate(1, 2)),
    ],
)
def test_rates_of_abort_rules(rule, wrong, caught):
    assert abort_rate(RECORDS, rule, 20.0) == (wrong, caught)


def test_rules_between_the_means():
    with pytest.raises(ValueError, match="multiples of 10"):
        abort_rate(RECORDS, AbortRule(15, 5, 2.3), 20.0)


def test_table_says_how_many():
    anchors = (Anchor("resnet50_cifar", name="net"),)
    protocol = ProxyProtocol(anchors, abort_rules=(AbortRule(20, 10, 2.3),))
    known = record(KNOWN, "low_accuracy", [2.4, 2.1], 12.5)
    known["graph"] = LIBRARY["bn_relu"].to_text()
    lines = as_markdown([*RECORDS, known], protocol).splitlines()
    assert lines[0].startswith("9 candidates trained for 100 steps on net, ")
    assert "| blow_up | 0 of 1, at most 79.3 % |" in lines
    assert "| dead | 1 of 2, at most 90.5 % |" in lines
    assert lines.index("| blow_up | 0 of 1, at most 79.3 % |") == 4
    rule = "| mean loss of 10 steps above 2.3 at step 20 | 0 of 1, at most 79.3 % | 1 of 3 |"
    assert rule in lines
    assert "Of 5 that no filter rejects, 2 reached it." in lines
    assert lines[-2:] == ["| bn_relu | 12.5 % |", "| random | no_spatial_dependence |"]


def test_csv_holds_what_the_rates_are_made_from():
    anchors = (Anchor("resnet50_cifar", name="net"),)
    protocol = ProxyProtocol(anchors, abort_rules=(AbortRule(20, 10, 2.3),))
    rows = list(csv.reader(as_csv(RECORDS, protocol).splitlines()))
    assert rows[0] == ["filter", "verdict", "net accuracy", "net loss 11-20", "graph"]
    assert rows[2] == ["dead", "low_accuracy", "", "", ""]
    assert rows[4] == [SURVIVES, "passed", "40.0", "2.1", ""]
    assert len(rows) == 1 + len(RECORDS)
