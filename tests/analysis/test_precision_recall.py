"""The figure of precision over recall shows what the table holds."""

import sys

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.analysis.precision_recall import (
    draw_precision_recall,
    plot_precision_recall,
    read_precision_recall,
)
from evonorm_jax.errors import UserError
from experiments import plot
from experiments.process import run_main

HEADER = "kind,category_id,name,recall,precision,precision50,precision75"


def write_table(folder, categories=(("", ""),), scale=1.0):
    """Precisions that fall with the recall, of boxes faster than of masks."""
    rows = [
        f"{kind},{number},{name},{recall},{scale * (1 - fall * recall) / 2},"
        f"{scale * (1 - fall * recall)},{scale * (1 - fall * recall) / 4}"
        for kind, fall in (("box", 1.0), ("mask", 0.5))
        for number, name in categories
        for recall in (0.0, 0.5, 1.0)
    ]
    path = folder / "precision_recall.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


def test_one_run_has_its_lines_with_their_ap(tmp_path):
    figure = draw_precision_recall([read_precision_recall(write_table(tmp_path))])
    boxes, masks = figure.axes
    assert (boxes.get_title(), masks.get_title()) == ("boxes", "masks")
    strong = boxes.get_lines()[2]
    np.testing.assert_allclose(strong.get_xdata(), [0, 50, 100])
    np.testing.assert_allclose(strong.get_ydata(), [50, 25, 0])
    assert [text.get_text() for text in masks.get_legend().get_texts()] == [
        "IoU 0.5: AP 75.0 %",
        "IoU 0.75: AP 18.8 %",
        "mean of IoU 0.5 to 0.95: AP 37.5 %",
    ]
    picture = plot_precision_recall(tmp_path)
    assert picture == tmp_path / "precision_recall.png"
    with Image.open(picture) as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 10


def test_categories_have_panels_of_their_own(tmp_path):
    table = write_table(tmp_path, (("", ""), ("3", "$x_1$"), ("7", "")))
    figure = draw_precision_recall([read_precision_recall(table)])
    assert [len(axis.get_lines()) for axis in figure.axes] == [3, 3, 2, 2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["$x_1$", "7"]
    figure.savefig(tmp_path / "figure.png")  # a name is no formula


def exit_code_of_plot(monkeypatch, *arguments):
    """Returns the exit code of experiments.plot."""
    monkeypatch.setattr(sys, "argv", ["plot", *map(str, arguments)])
    try:
        run_main(plot.main)
    except SystemExit as error:
        return error.code
    return 0


def test_runs_are_compared(make_run, tmp_path, monkeypatch, capsys):
    runs = [make_run("a"), make_run("b", norm_act="bn_relu"), make_run("c")]  # c has no table
    for run, scale in zip(runs, (1.0, 0.5), strict=False):
        write_table(run, scale=scale)
    output = tmp_path / "figures" / "curves.svg"
    assert exit_code_of_plot(monkeypatch, *runs, "--output", output) == 0
    assert (
        f"Precision over recall: {output.with_stem('precision_recall')}" in capsys.readouterr().out
    )
    text = output.with_stem("precision_recall").read_text()
    assert "EvoNorm-S0: AP 25.0 %" in text  # of boxes
    assert "BN-ReLU: AP 18.8 %" in text  # of masks
    assert (
        exit_code_of_plot(monkeypatch, *runs, "--output", output.with_stem("precision_recall")) == 2
    )
    assert "second figure of detectors" in capsys.readouterr().err
    assert exit_code_of_plot(monkeypatch, runs[2], "--output", output.with_stem("alone")) == 0
    assert "Precision over recall" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        "kind,recall\nbox,1\n",
        f"{HEADER}\nbox,,,0,a,1,1\n",
        f"{HEADER}\ncat,,,0,1,1,1\n",
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "precision_recall.csv").write_text(text)
    with pytest.raises(UserError, match=r"precision_recall.csv' is no table of .*evaluate again"):
        plot_precision_recall(tmp_path)


def test_a_folder_without_the_table_has_no_figure(tmp_path):
    assert plot_precision_recall(tmp_path) is None
