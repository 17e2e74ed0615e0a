"""Searches in tables and figures, from small ledgers of the test evaluator."""

import csv
import shutil
from collections import defaultdict

import numpy as np
import pytest
from matplotlib.axes import Axes

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.formula import formula
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.pareto import pareto_front
from evonorm_jax.search.evolution.search_state import Candidate
from evonorm_jax.search.report.search_figures import draw_progress
from evonorm_jax.search.report.search_report import summarize, write_search_report
from evonorm_jax.search.report.search_runs import load_searches
from evonorm_jax.search.run.ledger import Ledger
from evonorm_jax.search.run.ledger_reader import read_ledger
from tests.search.run.fast_search import make_config

# Graph, parent, stage, reason, accuracy on the two networks; in the order of the results.
CANDIDATES = [
    ("random", None, "filters", "no_spatial_dependence", None),
    ("frn", None, "wide", "low_accuracy", None),
    ("bn_relu", None, "scored", None, (60.0, 40.0)),
    ("gn_relu", None, "scored", None, (50.0, 45.0)),
    ("evonorm_s1", 2, "filters", "duplicate", None),
    ("evonorm_s0", 3, "scored", None, (70.0, 44.0)),
    ("evonorm_b0", 5, "scored", None, (40.0, 30.0)),
]
GRAPHS = {name: LIBRARY[name] for name, *_ in CANDIDATES}


START = {"command": ["python", "-m", "search"], "commit": "eb0fffd" + 33 * "0", "machine": "a PDP"}


def make_search(folder, candidates=CANDIDATES, **fields):
    with Ledger(folder, make_config(**fields), START) as ledger:
        for number, (name, parent, stage, reason, scores) in enumerate(candidates):
            candidate = Candidate(number, GRAPHS[name], parent)
            ledger.add_candidate(candidate, seed=0, function=None, results_before=number)
            scores = dict(zip(("wide", "deep"), scores, strict=True)) if scores else {}
            steps = 0 if stage == "filters" else 100
            result = Verdict(stage, reason, scores=scores, seconds=36.0, steps=steps)
            ledger.add_result(number, result, place=number)
        ledger.commit()
    return folder


def test_the_numbers_of_a_search(tmp_path):
    (run,) = load_searches([make_search(tmp_path / "a")])
    assert run.networks == ("wide", "deep")
    assert run.strategy == "evolution"
    np.testing.assert_array_equal(run.scores(), [[60, 40], [50, 45], [70, 44], [40, 30]])
    # Of the trained ones: rejected, then means 50, 47.5, 57 and 35.
    best = [np.nan, 50, 50, 57, 57]
    for measure, costs in (
        ("trained", [1, 2, 3, 4, 5]),
        ("scored", [0, 1, 2, 3, 4]),
        ("steps", [100, 200, 300, 400, 500]),
    ):
        np.testing.assert_array_equal(run.best_so_far(measure), (costs, best))
        np.testing.assert_array_equal(run.cost(measure), costs[1:])
    assert run.fates() == {
        "random graphs": {"no_spatial_dependence": 1, "low_accuracy": 1, "scored": 2},
        "mutations": {"duplicate": 1, "scored": 2},
    }
    assert pareto_front(run.scores().tolist()) == [1, 2]


def test_the_report_holds_every_file_and_the_numbers(tmp_path):
    folder = make_search(tmp_path / "a")
    files = write_search_report([folder], tmp_path / "out")
    names = ["scatter", "progress", "fates", "front", "winner_1", "winner_2", "winner_3"]
    assert [path.name for path in files] == [
        *(f"{name}.png" for name in names),
        "README.md",
        "scored.csv",
    ]
    *pictures, summary, scored = files
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
    text = summary.read_text()
    assert "| a | evolution | 0 | 7 | 5 | 4 | 500 | 0.07 | 57.00 |" in text
    assert "| scored | 2 | 2 |" in text
    assert "![winner 1](winner_1.png)" in text
    assert "```bash\npython -m search\n```" in text
    assert "- commit: `eb0fffd`\n- machine of the driver: a PDP\n" in text
    assert "| no spatial dependence | 1 | 0 |" in text
    assert "The best layers at the budget of the search:" in text
    places = [line for line in text.splitlines() if line.startswith(("| 1 |", "| 2 |", "| 3 |"))]
    assert [line.split(" | ")[1:5] for line in places] == [
        ["a", "5", "70.00", "44.00"],
        ["a", "2", "60.00", "40.00"],
        ["a", "3", "50.00", "45.00"],
    ]
    rows = list(csv.DictReader(scored.read_text().splitlines()))
    assert len(rows) == 4
    assert rows[2] == {
        "search": "a",
        "strategy": "evolution",
        "seed": "0",
        "candidate": "5",
        "parent": "3",
        "scored": "3",
        "trained": "4",
        "steps": "400",
        "wide": "70.00",
        "deep": "44.00",
        "graph": GRAPHS["evonorm_s0"].to_text(),
    }


def test_winners_come_from_the_larger_budget_where_there_is_one(tmp_path):
    folder = make_search(tmp_path / "a")
    with Ledger(folder, make_config()) as ledger:
        for number, score in ((5, 71.0), (2, 72.0), (3, None)):
            reason = None if score else "unstable"
            scores = {"wide": score, "deep": score} if score else {}
            ledger.add_reranked(number, 0, Verdict("scored", reason, scores=scores))
        ledger.commit()
    text = summarize(load_searches([folder]))
    assert "The best layers at the larger budget:" in text
    assert text.index("| 1 | a | 2 | 72.00 |") < text.index("| 2 | a | 5 | 71.00 |")
    assert "| 3 | a |" not in text
    *_, reranked = write_search_report([folder], tmp_path / "out")
    assert reranked.name == "reranked.csv"
    rows = csv.DictReader(reranked.read_text().splitlines())
    assert [(row["candidate"], row["wide"], row["deep"]) for row in rows] == [
        ("2", "72.00", "72.00"),
        ("5", "71.00", "71.00"),
    ]


def test_repeated_searches_are_drawn_together(tmp_path, monkeypatch):
    folders = [
        make_search(tmp_path / "evolution_0"),
        make_search(tmp_path / "evolution_1", CANDIDATES[:-1], seed=1),
        make_search(tmp_path / "random_0", CANDIDATES[:4], strategy="random"),
    ]
    lines, bands = defaultdict(list), []
    plot, fill_between = Axes.plot, Axes.fill_between

    def noted_plot(axis, x, y, **style):
        lines[style["label"].split(",")[0]].append((style["label"], (list(x), list(y))))
        return plot(axis, x, y, **style)

    def noted_band(axis, *band, **style):
        bands.append(band)
        return fill_between(axis, *band, **style)

    monkeypatch.setattr(Axes, "plot", noted_plot)
    monkeypatch.setattr(Axes, "fill_between", noted_band)
    runs = load_searches(folders)
    draw_progress(runs)
    # As far as the shorter one goes; 3 of 4 candidates, 400 of 500 steps.
    costs = {"scored": [1, 2, 3], "steps": [200, 300, 400]}
    for measure, (label, (x, y)) in zip(costs, lines["evolution"], strict=True):
        assert label == "evolution, mean and range of 2"
        assert x == costs[measure]
        np.testing.assert_array_equal(y, [50, 50, 57])
    assert [label for label, _ in lines["random search"]] == ["random search"] * 2
    assert len(bands) == 2
    text = summarize(runs)
    assert "| 2 candidates scored | evolution | 50.00 | 0.00 | 50.00, 50.00 |" in text
    assert "| 2 candidates scored | random search | 50.00 | - | 50.00 |" in text
    assert "| 300 training steps | evolution | 50.00 | 0.00 |" in text
    # The layer that both evolutions have found stands there once.
    assert text.count(f"`{formula(GRAPHS['evonorm_s0'], 'unicode')}`") == 1


def test_a_search_that_had_scored_nothing_by_then_is_not_averaged_away(tmp_path):
    graph, _, *scored = CANDIDATES[5]
    late = [CANDIDATES[1], CANDIDATES[1], (graph, None, *scored)]
    folders = [
        make_search(tmp_path / "0", CANDIDATES[:3]),
        make_search(tmp_path / "1", late, seed=1),
    ]
    text = summarize(load_searches(folders))
    assert "| 1 candidates scored | evolution | 53.50 | 4.95 | 57.00, 50.00 |" in text
    assert "| 2 candidates trained | evolution | - | - | 50.00, none |" in text


def make_searches_with_bests(folder, bests, strategy):
    """Searches that score one layer each, with these means, ranked again with two points more."""
    folders = []
    for seed, mean in enumerate(bests):
        candidates = [("bn_relu", None, "scored", None, (mean + 5, mean - 5))]
        name = folder / f"{strategy}_{seed}"
        folders.append(make_search(name, candidates, strategy=strategy, seed=seed))
        with Ledger(name, make_config(strategy=strategy, seed=seed)) as ledger:
            scores = {"wide": mean + 2, "deep": mean + 2}
            ledger.add_reranked(0, 0, Verdict("scored", None, scores=scores))
            ledger.commit()
    return folders


def test_two_strategies_are_compared_with_an_interval(tmp_path):
    evolution, random = [33.0, 35.0, 37.0], [30.0, 31.0, 35.0]
    folders = make_searches_with_bests(tmp_path, evolution, "evolution")
    folders += make_searches_with_bests(tmp_path, random, "random")
    text = summarize(load_searches(folders))
    # By hand: variances 4 and 7, so the standard error is sqrt(11 / 3), the degrees of freedom are
    # 11^2 / (16 / 2 + 49 / 2) = 3.723, and 97.5 % of Student's t with so many lie below 2.8598.
    half = 2.8598 * np.sqrt(11 / 3)
    interval = f"| evolution less random search | 3.00 | {3 - half:.2f} to {3 + half:.2f} |"
    assert f"| 100 training steps {interval}" in text
    assert f"| the larger budget, ranked again {interval}" in text
    again = "| the larger budget, ranked again | evolution | 37.00 | 2.00 | 39.00, 37.00, 35.00 |"
    assert again in text


def test_no_interval_without_repetitions_or_spread(tmp_path):
    evolution = make_searches_with_bests(tmp_path / "a", [33.0, 35.0], "evolution")
    random = make_searches_with_bests(tmp_path / "a", [30.0], "random")
    assert "interval" not in summarize(load_searches([*evolution, *random]))
    same = make_searches_with_bests(tmp_path / "b", [33.0, 33.0], "evolution")
    equal = make_searches_with_bests(tmp_path / "b", [30.0, 30.0], "random")
    assert "interval" not in summarize(load_searches([*same, *equal]))


def test_a_search_that_has_scored_nothing_yet_has_a_report(tmp_path):
    folder = make_search(tmp_path / "a", CANDIDATES[:2])
    files = write_search_report([folder], tmp_path / "out")
    assert [path.name for path in files] == ["fates.png", "README.md", "scored.csv"]


def test_one_network_is_not_drawn_against_itself(tmp_path):
    anchors = [{"model": "resnet50_cifar", "fields": {}, "name": "wide"}]
    with Ledger(tmp_path / "a", make_config(anchors=anchors)) as ledger:
        candidate = Candidate(0, GRAPHS["bn_relu"], None)
        ledger.add_candidate(candidate, seed=0, function=None, results_before=0)
        ledger.add_result(0, Verdict("scored", None, scores={"wide": 50.0}, steps=100), place=0)
        ledger.commit()
    files = write_search_report([tmp_path / "a"], tmp_path / "out")
    pictures = ["progress.png", "fates.png", "winner_1.png"]
    assert [path.name for path in files] == [*pictures, "README.md", "scored.csv"]


def test_a_ledger_alone_is_enough(tmp_path):
    folder = make_search(tmp_path / "a")
    shutil.copy(folder / "ledger.sqlite", tmp_path / "kept.sqlite")
    assert len(read_ledger(tmp_path / "kept.sqlite").entries) == len(CANDIDATES)
    assert "| 57.00 |" in summarize(load_searches([tmp_path / "kept.sqlite"]))


def test_what_does_not_fit_together_is_refused(tmp_path):
    one = make_search(tmp_path / "one")
    anchors = [{"model": "resnet50_cifar", "fields": {}, "name": "other"}]
    other = make_search(tmp_path / "two", CANDIDATES[:1], anchors=anchors)
    with pytest.raises(UserError, match=r"two' was scored on other, '.*one' on wide, deep"):
        load_searches([one, other])
    empty = make_search(tmp_path / "three", [])
    with pytest.raises(UserError, match="has no result yet"):
        load_searches([empty])
    with pytest.raises(UserError, match="There is no ledger"):
        load_searches([tmp_path])
