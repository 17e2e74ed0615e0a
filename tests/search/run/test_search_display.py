"""What a person sees of a search: counts, the best, the rest of the time."""

import io
import re

from evonorm_jax.search.evolution.search_state import Search, SearchConfig
from evonorm_jax.search.evolution.space import SearchSpace
from evonorm_jax.search.run import search_display


def some_search(**limits):
    search = Search(SearchConfig(population_size=9, num_scores=2, **limits), SearchSpace())
    for scores in ((10.0, 50.0), (40.0, 40.0), None, (20.0, 20.0), None):
        id = search.ask().id
        rejected = None if scores else ("low_accuracy" if id == 2 else "duplicate")
        search.tell(id, scores=scores, rejected=rejected)
    search.ask()  # in work
    return search


def test_the_summary_says_how_far_it_is_and_what_is_best():
    search = some_search(max_candidates=1200)
    assert search_display.summary_line(search, front_size=2) == (
        "evaluated 5 of 1,200  scored 3  best 40.00 % (candidate 1)  Pareto front 2"
    )
    assert search_display.rejections_line(search) == "rejected: low_accuracy 1, duplicate 1"


def test_nothing_scored_yet_has_a_summary():
    search = Search(SearchConfig(max_scored=7), SearchSpace())
    assert search_display.summary_line(search, front_size=0) == "evaluated 0  scored 0 of 7"
    assert search_display.rejections_line(search) == ""


def test_plain_lines_are_far_apart_and_estimate_the_rest(monkeypatch):
    clock, stream = [100.0], io.StringIO()
    monkeypatch.setattr(search_display.time, "monotonic", lambda: clock[0])
    search = some_search(max_candidates=25, max_scored=13)
    with search_display.SearchDisplay(stream) as shown:
        shown.update(search, deaths=0)
        for _ in range(10):
            search.tell(search.pending[0].id, rejected="dead")
            search.ask()
            clock[0] += 3.6
            shown.update(search, deaths=1)
    first, second, third, fourth = stream.getvalue().splitlines()
    assert first.startswith("evaluated 5 of 25  scored 3 of 13  best 40.00 %")
    assert "  evaluating 1  " in first
    assert first.endswith("rejected: low_accuracy 1, duplicate 1")
    # One candidate in 3.6 s: 1,000 an hour; none scored since, so the other budget sets the time.
    assert "evaluated 8 of 25" in second
    assert "evaluating 1  1,000/h  1m01s left" in second
    assert "evaluated 11 of 25" in third
    assert fourth.endswith(
        "dead 9, low_accuracy 1, duplicate 1  1 worker(s) died and were replaced"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_narrow_terminal_loses_no_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    search, stream = some_search(max_scored=9), Terminal()
    with search_display.SearchDisplay(stream) as shown:
        shown.update(search, deaths=1)
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 30
    words = " ".join(lines).split()
    assert {"low_accuracy", "duplicate", "replaced"} <= set(words)
