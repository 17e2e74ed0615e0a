"""The three files of a report, from results that were made by hand."""

import json

import pytest
from matplotlib.figure import Figure

from evonorm_jax.benchmarks import chart
from evonorm_jax.benchmarks import report as report_files
from evonorm_jax.benchmarks.results import Report, Result, number
from evonorm_jax.errors import UserError

ENVIRONMENT = {
    "hardware": "abacus",
    "devices": "1 x bead",
    "processor": "wood",
    "cores": 10,
    "date": "2020-12-06T00:00:00+00:00",
    "command": ["python", "-m", "experiments.benchmark"],
    "commit": None,
    "quick": False,
    "versions": {"jax": "1.2.3"},
    "variables": {"XLA_FLAGS": None, "JAX_PLATFORMS": "cpu"},
    "load_average_before": [0.5, 0.5, 0.5],
    "load_average_after": [0.75, 0.5, 0.5],
}


def made_report():
    results = (
        Result("float32", "small", "ours", (0.001, 0.002, 0.003), {"scratch, MB": 1.5}),
        Result("float32", "small", "theirs", (0.002, 0.008, 0.006)),
        Result("float32", "large", "ours", (2.0, 2.0, 2.0), {"scratch, MB": 15.0}),
        Result("float32", "large", "theirs", (2.0, 1.0, 4.0)),
        Result("float32", "large", "absent", note="absent is not installed"),
        Result("whole", "net", "ours", (0.5, 0.5, 0.5), {"images per second": 12345.6}),
    )
    return Report("made", "Made by hand", ("How to read it.",), results, (("ours", "theirs"),))


@pytest.fixture
def written(tmp_path):
    paths = report_files.write_report(made_report(), ENVIRONMENT, tmp_path / "abacus", "made")
    assert [path.name for path in paths] == ["made.json", "made.md", "made.png"]
    assert sorted(path.name for path in (tmp_path / "abacus").iterdir()) == sorted(
        path.name for path in paths
    )
    return paths


def test_json_holds_everything(written):
    data = json.loads(written[0].read_text())
    assert list(data) == ["schema", "suite", "title", "environment", "results", "ratios"]
    assert data["schema"] == 1
    assert data["environment"] == ENVIRONMENT
    fields = ["group", "case", "contender", "seconds", "figures", "note", "spread"]
    assert all(list(result) == fields for result in data["results"])
    first, absent = data["results"][0], data["results"][4]
    assert first["seconds"] == [0.001, 0.002, 0.003]
    assert first["spread"] == {"median": 0.002, "low": 0.0015, "high": 0.0025}
    assert (absent["seconds"], absent["spread"]) == ([], None)
    small, large = data["ratios"]  # 1/2, 2/8, 3/6 and 2/2, 2/1, 2/4
    assert small == {
        "group": "float32",
        "case": "small",
        "contender": "ours",
        "rival": "theirs",
        "median": 0.5,
        "low": 0.375,
        "high": 0.5,
    }
    assert (large["case"], large["median"]) == ("large", 1.0)


def test_json_keeps_the_samples_of_a_contender_on_one_line(written):
    assert '"seconds": [ 0.001, 0.002, 0.003 ],' in written[0].read_text()


def test_markdown_has_a_table_per_measure_where_there_are_several_cases(written):
    lines = written[1].read_text().splitlines()
    for line in (
        "# Made by hand",
        "![Made by hand](made.png)",
        "- commit: unknown",
        "- variables: JAX_PLATFORMS=cpu",
        "- How to read it.",
        "| | small | large |",
        "| ours | 2 ms [1.5, 2.5] | 2 s [2, 2] |",
        "| absent |  | absent is not installed |",
        "| ours | 1.5 | 15 |",
        "| | small | large | geometric mean |",
        "| ours / theirs | 0.50 [0.38, 0.50] | 1.00 [0.75, 1.50] | 0.71 |",
    ):
        assert line in lines


def test_markdown_has_one_table_where_there_is_one_case(written):
    lines = written[1].read_text().splitlines()
    assert "| | time, median [quartiles] | images per second |" in lines
    assert "| ours | 500 ms [500, 500] | 12,346 |" in lines


def test_a_quick_run_says_so():
    text = report_files.as_markdown(made_report(), ENVIRONMENT | {"quick": True}, picture="x.png")
    assert "A quick run" in text
    assert "A quick run" not in report_files.as_markdown(
        made_report(), ENVIRONMENT, picture="x.png"
    )


def test_the_picture_is_one(written):
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_no_geometric_mean_over_some_of_the_cases():
    made = made_report()
    results = tuple(r for r in made.results if (r.case, r.contender) != ("large", "theirs"))
    partial = Report(made.suite, made.title, made.notes, results, made.comparisons)
    text = report_files.as_markdown(partial, ENVIRONMENT, picture="x.png")
    assert "| ours / theirs | 0.50 [0.38, 0.50] |  |  |" in text


def test_a_failed_write_leaves_the_earlier_report(written, tmp_path, monkeypatch):
    before = [path.read_bytes() for path in written]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_files.Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left.*--output"):
        report_files.write_report(made_report(), ENVIRONMENT, tmp_path / "abacus", "made")
    assert [path.read_bytes() for path in written] == before


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.0, "1"), (99.94, "99.9"), (1280.0, "1,280")]
)
def test_numbers_have_no_exponents(value, text):
    assert number(value) == text


def counted_report():
    """Without times: a figure is what bars and ratios show."""
    results = (
        Result("steps", "net", "ours", figures={"traffic, GB": 1.5, "copies": 0}),
        Result("steps", "net", "theirs", figures={"traffic, GB": 2.0, "copies": 12}),
        Result("steps", "net", "absent", note="does not compile"),
        Result("steps", "tiny", "ours", figures={"traffic, GB": 0.5}),
    )
    comparisons = (("ours", "theirs"), ("absent", "theirs"))
    return Report(
        "counted",
        "Counted",
        (),
        results,
        comparisons,
        headline="traffic, GB",
        quick_notice="Fewer of them.",
    )


def test_a_report_of_a_figure_instead_of_times():
    text = report_files.as_markdown(counted_report(), ENVIRONMENT, picture=None)
    lines = text.splitlines()
    for line in (
        "Traffic, GB:",
        "| ours | 1.5 | 0.5 |",
        "| absent | does not compile |  |",
        "Copies:",
        "| theirs | 12 |  |",
        "Ratio of traffic, GB; below 1: the first has less:",
        "| ours / theirs | 0.750 |  |  |",
    ):
        assert line in lines
    assert "median" not in text
    assert "![" not in text
    assert "| absent / theirs" not in text


def test_the_ratios_of_a_figure_in_json():
    (ratio,) = report_files.as_json(counted_report(), ENVIRONMENT)["ratios"]
    names = {"group": "steps", "case": "net", "contender": "ours", "rival": "theirs"}
    assert ratio == names | {"median": 0.75, "low": 0.75, "high": 0.75}


@pytest.mark.parametrize(
    ("seconds", "label", "lengths"), [((0.002, 0.004), "ms", [2, 4]), ((2.0, 3.0), "s", [2, 3])]
)
def test_bars_are_as_long_as_their_unit_says(seconds, label, lengths):
    results = [
        Result("steps", "net", name, seconds=(value,))
        for name, value in zip(("ours", "theirs"), seconds, strict=True)
    ]
    report = Report("timed", "Timed", (), tuple(results), ())
    axis = Figure().subplots()
    chart._draw_bars(axis, report, "steps", "net", ["ours", "theirs"])
    assert axis.get_xlabel() == label
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(lengths)


def test_bars_of_a_figure_have_its_name():
    """Candidates per hour, say, and not the seconds that were timed beside them."""
    axis = Figure().subplots()
    chart._draw_bars(axis, counted_report(), "steps", "net", ["ours", "theirs", "absent"])
    assert axis.get_xlabel() == "traffic, GB"
    assert [bar.get_width() for bar in axis.patches] == [1.5, 2.0]


def test_a_suite_says_what_its_quick_run_is():
    text = report_files.as_markdown(counted_report(), ENVIRONMENT | {"quick": True}, picture=None)
    assert "**Fewer of them.**" in text.splitlines()


def test_results_can_be_read_again(tmp_path):
    paths = report_files.write_report(counted_report(), ENVIRONMENT, tmp_path, "counted")
    assert [path.name for path in paths] == ["counted.json", "counted.md", "counted.png"]
    environment, results = report_files.read_results(paths[0])
    assert environment == ENVIRONMENT
    assert tuple(results) == counted_report().results


def test_a_report_on_its_way_has_no_picture(tmp_path):
    paths = report_files.write_report(made_report(), ENVIRONMENT, tmp_path, "made", chart=False)
    assert [path.name for path in paths] == ["made.json", "made.md"]
    assert "![" not in paths[1].read_text()


@pytest.mark.parametrize("text", ["[]", '{"schema": 0}', "no JSON"])
def test_files_that_are_no_results(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"no report of schema 1|Expecting value"):
        report_files.read_results(tmp_path / "other.json")
