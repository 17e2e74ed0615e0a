import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.analysis import curves
from evonorm_jax.analysis.curves import plot_runs
from evonorm_jax.analysis.runs import load_run
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import METRICS_FILE
from experiments import plot
from experiments.process import run_main
from tests.analysis.conftest import event
from tests.experiments import command_line

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def figures(monkeypatch):
    """The figures that `plot_runs` has drawn."""
    drawn = []

    class RecordedFigure(curves.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(curves, "Figure", RecordedFigure)
    return drawn


def test_draws_a_picture_that_is_not_empty(make_run, tmp_path):
    output = plot_runs([make_run("run")], tmp_path / "new" / "curve.png")
    with Image.open(output) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    vermilion = np.abs(pixels - [0xD5, 0x5E, 0x00]).sum(-1) < 30  # the colour of EvoNorm-S0
    assert vermilion.sum() > 500


def test_one_panel_per_measure_with_train_and_eval_of_every_run(make_run, tmp_path, figures):
    runs = [make_run("a"), make_run("b", norm_act="bn_relu")]
    plot_runs(runs, tmp_path / "curves.png")
    (figure,) = figures
    loss, top1 = figure.axes
    assert (loss.get_ylabel(), top1.get_ylabel()) == ("cross-entropy (nats)", "top-1 accuracy (%)")
    assert [len(axis.get_lines()) for axis in figure.axes] == [4, 4]
    # Fractions are shown in percent; evaluation comes after training, so it lies on top.
    np.testing.assert_allclose(top1.get_lines()[0].get_ydata(), [25, 50, 75])
    np.testing.assert_allclose(top1.get_lines()[2].get_ydata(), [20, 40, 60])
    np.testing.assert_allclose(top1.get_lines()[2].get_xdata(), [1, 2, 3])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "EvoNorm-S0",
        "BN-ReLU",
        "training",
        "evaluation",
    ]


def test_a_full_metric_name_stands_alone(make_run, tmp_path, figures):
    plot_runs([make_run("run")], tmp_path / "curves.svg", ["eval/loss"])
    (axis,) = figures[0].axes
    assert len(axis.get_lines()) == 1
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "EvoNorm-S0, ResNet-20"
    ]


@pytest.mark.hostile
def test_names_of_folders_are_drawn_as_they_are(make_run, tmp_path, figures):
    names = ["$a_{$", "_b", "c$d"]
    plot_runs([make_run(name) for name in names], tmp_path / "curves.png", ["eval/loss"])
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert all(name in text for name, text in zip(names, texts, strict=True))


def test_many_runs_all_look_different(make_run, tmp_path, figures):
    runs = [make_run(f"run{seed}", seed=seed) for seed in range(9)]
    plot_runs(runs, tmp_path / "curves.png", ["eval/top1"])
    lines = figures[0].axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9


def test_a_run_without_the_metric_is_skipped_if_another_has_it(make_run, tmp_path, figures):
    early = make_run("early", lines=[event(1, **{"train/loss": 2.0})])
    plot_runs([early, make_run("done", norm_act="frn")], tmp_path / "curves.png")
    assert [len(axis.get_lines()) for axis in figures[0].axes] == [3, 2]


def test_an_unknown_metric_raises_and_lists_the_known_ones(make_run, tmp_path):
    with pytest.raises(UserError, match="'eval/top9'; the runs have eval/loss, eval/top1, train"):
        plot_runs([make_run("run")], tmp_path / "curves.png", ["eval/top9"])


def test_an_unknown_image_format_raises(make_run, tmp_path):
    with pytest.raises(UserError, match=r"'.*curves\.xyz' must end in one of .*\.png"):
        plot_runs([make_run("run")], tmp_path / "curves.xyz")


@pytest.mark.slow
def test_a_million_rows_are_drawn_in_little_memory(make_run):
    """Of which drawing a run of a few rows takes 200 MB: Python, NumPy, matplotlib and JAX."""
    path, rng = make_run("run"), random.Random(0)
    with (path / METRICS_FILE).open("w") as stream:
        for step in range(1, 1_000_001):
            values = (f'"train/{name}": {rng.random()}' for name in ("loss", "top1", "rate"))
            row = f'"step": {step}, "time": {1.79e9 + step}, "epoch": {step / 1000}'
            stream.write(f"{{{row}, {', '.join(values)}}}\n")
    command_line.measure("-m", "experiments.plot", "--help")
    picture = str(path / "curves.png")
    stdout, megabytes = command_line.measure(
        "-m", "experiments.plot", str(path), "--output", picture
    )
    assert picture in stdout
    assert megabytes < 300
    steps, _, losses = load_run(path).series["train/loss"]
    assert (len(steps), len(losses), steps[-1]) == (1_000_000, 1_000_000, 1_000_000)


def launch(*arguments):
    command = [sys.executable, "-m", "experiments.plot", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_launcher_writes_the_picture_and_says_where(make_run, tmp_path):
    output = tmp_path / "curves.png"
    done = launch(make_run("run"), "--output", output, "--metric", "loss")
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    with Image.open(output) as image:
        assert image.size[0] > 500


def end_in_process(monkeypatch, *arguments):
    """Exit code of the launcher, without the cost of a process."""
    monkeypatch.setattr(sys, "argv", ["plot", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_main(plot.main)
    return ended.value.code


def test_the_launcher_ends_with_code_2_and_one_message(tmp_path, monkeypatch, capsys):
    assert end_in_process(monkeypatch, tmp_path / "nowhere") == 2
    stderr = capsys.readouterr().err
    assert "is not a directory" in stderr
    assert "Traceback" not in stderr


def test_the_launcher_explains_itself(monkeypatch, capsys):
    assert end_in_process(monkeypatch, "--help") == 0
    stdout = capsys.readouterr().out
    assert "python -m experiments.plot RUN" in stdout
    assert "--metric" in stdout
