import sys

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.analysis import sweep_figures
from evonorm_jax.analysis.sweep_figures import paper_points, plot_accuracy, plot_learning_curves
from evonorm_jax.analysis.sweep_files import load_sweep, read_history
from evonorm_jax.analysis.sweep_report import report, write_sweep_report
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.analysis.sweep_tables import accuracy_table, difference_table, verdict_table
from evonorm_jax.analysis.sweeps import Setting, Sweep, SweepRun
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import Metric, RunMetrics
from experiments import plot
from tests.analysis.sweep_folders import write_run, write_sweep

R50 = {"dataset": "imagenet2012", "source": "tfds", "model": "resnet50", "num_workers": 8}


@pytest.fixture
def root(tmp_path):
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def figures(monkeypatch):
    """The figures that have been drawn."""
    drawn = []

    class RecordedFigure(sweep_figures.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(sweep_figures, "Figure", RecordedFigure)
    return drawn


def means(axis, colour):
    """The line through the means of a layer."""
    (line,) = [
        line
        for line in axis.get_lines()
        if line.get_color() == colour and len(line.get_xdata()) > 1
    ]
    return line.get_ydata()


def test_the_table_has_mean_and_spread(root):
    assert accuracy_table(load_sweep(root)).splitlines() == [
        "| layer | 8 | 2 |",
        "| --- | --- | --- |",
        "| BN-ReLU | 96.0 ± 1.0 | 80.0 ± 1.0 |",
        "| GN-ReLU | 95.0 ± 1.0 | 95.0 ± 1.0 |",
        "| EvoNorm-S0 | 95.0 ± 1.0 | 95.0 ± 1.0 |",
    ]


def test_incomplete_cells_say_so(root):
    (root / "bn_relu" / "images_per_worker=2" / "seed=1" / "summary.json").unlink()
    write_run(root, "frn", 8, 0, None)
    lines = accuracy_table(load_sweep(root)).splitlines()
    assert lines[2] == "| BN-ReLU | 96.0 ± 1.0 | 80.0 ± 1.4 (2 of 3 seeds) |"
    assert lines[4] == "| FRN | 0 of 3 seeds | 0 of 3 seeds |"


def test_differences_are_to_bn_relu_at_the_same_size(root):
    assert difference_table(load_sweep(root)).splitlines()[2:] == [
        "| GN-ReLU | -1.0 ± 0.8 | +15.0 ± 0.8 |",
        "| EvoNorm-S0 | -1.0 ± 0.8 | +15.0 ± 0.8 |",
    ]


def test_the_verdict_follows_from_the_numbers(root):
    assert verdict_table(load_sweep(root)).splitlines()[2:] == [
        "| BN-ReLU loses from 8 to 2 images per worker | -16.0 ± 0.8 | agrees |",
        "| GN-ReLU loses nothing from 8 to 2 | +0.0 ± 0.8 | agrees |",
        "| EvoNorm-S0 loses nothing from 8 to 2 | +0.0 ± 0.8 | agrees |",
        "| EvoNorm-S0 is above BN-ReLU at 2 | +15.0 ± 0.8 | agrees |",
        "| EvoNorm-S0 is above BN-ReLU at 8 | -1.0 ± 0.8 | within the spread |",
        "| EvoNorm-S0 is above GN-ReLU at 2 | +0.0 ± 0.8 | within the spread |",
        "| EvoNorm-S0 is above GN-ReLU at 8 | +0.0 ± 0.8 | within the spread |",
    ]


def test_the_verdict_can_be_against_the_paper(tmp_path):
    for seed, shift in enumerate((-0.001, 0.001)):
        for layer, large, small in (("bn_relu", 0.8, 0.9), ("evonorm_s0", 0.9, 0.8)):
            write_run(tmp_path, layer, 8, seed, large + shift)
            write_run(tmp_path, layer, 2, seed, small + shift)
    verdicts = [line.split(" | ")[2] for line in verdict_table(load_sweep(tmp_path)).splitlines()]
    short = "not tested: 20 updates |"  # a lead of BN-ReLU in few updates says nothing
    assert verdicts[2:] == ["disagrees |", "disagrees |", short, "agrees |"]


def test_one_seed_has_no_spread_and_the_verdict_says_so(tmp_path):
    write_run(tmp_path, "bn_relu", 8, 0, 0.9)
    write_run(tmp_path, "bn_relu", 2, 0, 0.8)
    write_run(tmp_path, "evonorm_s0", 8, 0, None)
    lines = verdict_table(load_sweep(tmp_path)).splitlines()
    assert lines[2].endswith("| -10.0 | agrees, one seed |")
    assert lines[3].endswith("| not run | open |")


@pytest.fixture
def lengths(tmp_path):
    """BN-ReLU and S0 in 50 and 10 steps: S0 lags behind in the shorter ones alone."""
    for seed, shift in enumerate((-0.01, 0.01)):
        for layer, long, short in (("bn_relu", 0.84, 0.6), ("evonorm_s0", 0.84, 0.4)):
            write_run(tmp_path, layer, 8, seed, long + shift, num_steps=50)
            write_run(tmp_path, layer, 8, seed, short + shift, num_steps=10)
    return tmp_path


def test_a_sweep_over_steps_is_reported_against_steps(lengths, tmp_path, figures):
    sweep = load_sweep(lengths)
    assert (sweep.sizes, sweep.complete) == ([50, 10], True)
    text = report(sweep, [])
    assert text.startswith("# Accuracy against training steps: digits\n")
    assert "1 worker, 50 and 10 steps" in text
    assert "after the last step" in text
    assert "images per worker" not in text  # of which the paper makes its claims
    assert accuracy_table(sweep).splitlines()[::2] == [
        "| layer | 50 training steps | 10 training steps |",
        "| BN-ReLU | 84.0 ± 1.4 | 60.0 ± 1.4 |",
    ]
    assert difference_table(sweep).splitlines()[-1] == "| EvoNorm-S0 | +0.0 ± 1.4 | -20.0 ± 1.4 |"
    write_results(sweep, tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert (again.runs, again.axis) == (sweep.runs, sweep.axis)
    plot_accuracy(sweep, tmp_path / "accuracy.png")
    plot_learning_curves(sweep, tmp_path / "curves.png")
    assert figures[0].axes[0].get_xlabel() == "training steps"
    titles = [axis.get_title() for axis in figures[1].axes]
    assert titles == ["50 training steps", "10 training steps"]


def test_workers_may_share_one_batch(tmp_path):
    for workers in (1, 4):
        for seed in (0, 1):
            write_run(tmp_path, "bn_relu", 8 // workers, seed, 0.5, num_workers=workers)
    sweep = load_sweep(tmp_path)
    assert sweep.setting == Setting("digits", "embedded", "cifar_resnet20", 0, 2.0, batch_size=8)
    assert sweep.sizes == [8, 2]
    text = report(sweep, [])
    assert "8 images a step" in text
    assert "more updates" not in text  # all make as many
    write_results(sweep, tmp_path / "results.csv")
    assert read_results(tmp_path / "results.csv").setting == sweep.setting


def test_one_size_is_reported_by_layer(tmp_path):
    write_run(tmp_path, "bn_relu", 8, 0, 0.5)
    text = report(load_sweep(tmp_path), [])
    assert text.startswith("# Accuracy by layer: digits\n")
    assert "## What agrees with the paper" not in text


def distances(metric):
    """A sweep whose main metric is no accuracy: BN-ReLU goes from 10 to 30, the others stay."""
    metrics = RunMetrics("eval/distance", ("loss", "distance"), {"distance": metric})
    setting = Setting("digits", "embedded", "biggan", 1, 2.0)
    means = {("bn_relu", 8): 10.0, ("bn_relu", 2): 30.0}
    runs = [
        SweepRun(
            *(layer, size, seed, 5000),
            score=means.get((layer, size), 12.0) + seed,
            others={"loss": 1.0},
        )
        for layer in ("bn_relu", "evonorm_s0")
        for size in (8, 2)
        for seed in (0, 1)
    ]
    return Sweep(setting, runs, metrics)


def test_of_some_metrics_the_lower_value_is_the_better_one():
    sweep = distances(Metric("Fréchet distance"))
    claims = [line.split(" | ") for line in verdict_table(sweep).splitlines()]
    assert claims[0] == ["| the paper's claim", "here", "verdict |"]
    assert [(change, verdict) for _, change, verdict in claims[2:]] == [
        ("+20.0 ± 0.7", "agrees |"),  # BN-ReLU loses
        ("+0.0 ± 0.7", "agrees |"),  # EvoNorm-S0 does not
        ("-18.0 ± 0.7", "agrees |"),  # it is better at 2
        ("+2.0 ± 0.7", "disagrees |"),  # and worse at 8
    ]


def test_a_report_of_another_metric_has_its_names(tmp_path, figures):
    sweep = distances(Metric("Fréchet distance", "px", short="distance"))
    text = report(sweep, [])
    assert text.startswith("# Distance against images per worker: digits\n")
    assert "Fréchet distance in px after the last epoch" in text
    assert "at the same size, in px:" in text
    assert "test images" not in text
    write_results(sweep, tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert again.runs == sweep.runs
    plot_accuracy(again, tmp_path / "accuracy.png")
    (axis,) = figures[0].axes
    assert axis.get_ylabel() == "Fréchet distance (px)"


def test_the_report_has_the_circumstances(root):
    text = report(load_sweep(root), read_history(root))
    for part in (
        "python -m experiments.sweep --config=c.py\n",
        "- config: `c.py`\n",
        "- date: 2026-01-02\n",
        "- commit: `0123456`\n",
        "- hardware: 2 x ACME 3000\n",
        "- time: 9.0 min of training in 18 runs; 10.0 min in all, 2 at a time\n",
        "over 3 seeds. One of the 360 test images is 0.28 points.",
    ):
        assert part in text
    assert "unknown" not in text


def test_the_time_in_all_is_not_told_where_a_start_was_killed(root):
    start, end = read_history(root)
    text = report(load_sweep(root), [start, start, end])
    assert "- time: 9.0 min of training in 18 runs\n" in text


def test_accuracy_is_drawn_against_size_descending(root, tmp_path, figures):
    output = plot_accuracy(load_sweep(root), tmp_path / "accuracy.png")
    (axis,) = figures[0].axes
    left, right = axis.get_xlim()
    assert left > right  # as the paper draws it
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["8", "2"]
    np.testing.assert_allclose(means(axis, "#0072B2"), [96, 80])
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    bars = "bars: ± one standard deviation of 3 seeds"
    assert labels == ["BN-ReLU", "GN-ReLU", "EvoNorm-S0", bars]
    assert axis.get_title() == "Digits of 8x8 pixels, ResNet-20, 1 worker, 2 epochs"
    with Image.open(output) as image:
        assert min(image.size) > 500


def test_one_size_is_drawn_by_layer_with_every_seed(tmp_path, figures):
    for layer, seed, top1 in (("bn_relu", 0, 0.8), ("bn_relu", 1, 0.9), ("evonorm_s0", 0, 0.7)):
        write_run(tmp_path, layer, 8, seed, top1)
    plot_accuracy(load_sweep(tmp_path), tmp_path / "accuracy.png")
    (axis,) = figures[0].axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["BN-ReLU", "EvoNorm-S0"]
    seeds = [line for line in axis.get_lines() if line.get_alpha() == 0.5]
    assert [list(line.get_ydata()) for line in seeds] == [[80.0, 90.0], [70.0]]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["bars: ± one standard deviation of 2 seeds", "some seeds missing"]


def test_missing_seeds_are_marked(root, tmp_path, figures):
    (root / "bn_relu" / "images_per_worker=2" / "seed=1" / "summary.json").unlink()
    plot_accuracy(load_sweep(root), tmp_path / "accuracy.png")
    (axis,) = figures[0].axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[-1] == "some seeds missing"
    hollow = [line for line in axis.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata() for line in hollow] == [[80.0]]


def test_the_papers_points_are_drawn_where_its_setting_is_the_same(tmp_path, figures):
    same = load_sweep(write_sweep(tmp_path / "same", **R50))
    plot_accuracy(same, tmp_path / "accuracy.png")
    (axis,) = figures[0].axes
    pale = [line for line in axis.get_lines() if line.get_alpha() == 0.3]
    assert [list(line.get_ydata())[-1] for line in pale] == [70.7, 75.7, 77.5]
    assert "| EvoNorm-S0, the paper | 77.3 |  |" in accuracy_table(same)


@pytest.mark.parametrize(
    "other",
    [{"source": "fake"}, {"num_workers": 4}, {"model": "resnet101"}, {"dataset": "cifar10"}],
)
def test_the_papers_points_stay_away_elsewhere(tmp_path, other):
    assert paper_points(load_sweep(write_sweep(tmp_path / "sweep", **{**R50, **other}))) == {}


def test_learning_curves_have_a_panel_for_each_size(root, tmp_path, figures):
    plot_learning_curves(load_sweep(root), tmp_path / "curves.png")
    shown = [axis for axis in figures[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["8 images per worker", "2 images per worker"]
    np.testing.assert_allclose(means(shown[1], "#0072B2"), [40, 80])


def test_nothing_to_draw_is_refused(tmp_path):
    write_run(tmp_path, "bn_relu", 8, 0, None, measured=False)
    with pytest.raises(UserError, match="No run of this sweep has ended yet"):
        plot_accuracy(load_sweep(tmp_path), tmp_path / "accuracy.png")
    with pytest.raises(UserError, match="has been evaluated yet"):
        plot_learning_curves(load_sweep(tmp_path), tmp_path / "curves.png")


def test_the_launcher_recognises_a_sweep_and_its_table(root, tmp_path, monkeypatch):
    def launch(*arguments):
        monkeypatch.setattr(sys, "argv", ["plot", *map(str, arguments)])
        plot.main()

    launch(root, "--output", tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "accuracy.png", "learning_curves.png", "results.csv"}
    launch(tmp_path / "out" / "results.csv", "--output", tmp_path / "again.png")
    first, second = (tmp_path / "out" / "accuracy.png", tmp_path / "again.png")
    with Image.open(first) as a, Image.open(second) as b:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_report_lies_in_the_sweep_by_default_and_can_be_made_again(root):
    assert [path.name for path in write_sweep_report(root, root)] == [
        "accuracy.png",
        "learning_curves.png",
        "results.csv",
        "README.md",
    ]
    text = (root / "README.md").read_text()
    write_sweep_report(root, root)
    assert (root / "README.md").read_text() == text


@pytest.mark.hostile
def test_the_users_own_readme_stays(root, tmp_path):
    (tmp_path / "README.md").write_text("# My notes\n")
    assert write_sweep_report(root, tmp_path)[-1] == tmp_path / "report.md"
    assert (tmp_path / "README.md").read_text() == "# My notes\n"
    assert (tmp_path / "report.md").read_text().startswith("# Accuracy against")


@pytest.mark.hostile
def test_an_empty_path_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plot", ""])
    with pytest.raises(UserError, match="PATH is empty"):
        plot.main()
    assert list(tmp_path.iterdir()) == []
