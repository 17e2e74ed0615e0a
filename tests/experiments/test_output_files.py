"""No launcher replaces a file of the user's: it is refused before anything is read or computed."""

import re

import pytest

from evonorm_jax.analysis.curves import check_replaceable, save_figure
from evonorm_jax.errors import UserError
from experiments import convert_inception, evaluate, export, plot, predict, prepare_data, sample

pytestmark = pytest.mark.hostile

THERE = "is there already"
#: A launcher, what it is given, the file of the user's and what is said of it.
REFUSED = [
    (sample, ["--workdir=w"], "samples.png", THERE),
    (sample, ["--workdir=w", "--sheet=a.png"], "a.png", THERE),
    (sample, ["--workdir=w", "--npz=a.npz"], "a.npz", THERE),
    (sample, ["--workdir=w", "--folder=a"], "a/mine.txt", "--folder=a is not empty"),
    (sample, ["--workdir=w", "--folder=a"], "a", "--folder=a is a file"),
    (export, ["--workdir=w", "--output=a.npz"], "a.npz", THERE),
    (export, ["--workdir=w", "--output=a.jaxexport"], "a.jaxexport.json", THERE),
    (evaluate, ["--workdir=w", "--output=a"], "a/class_accuracy.csv", "--output=a is not empty"),
    (evaluate, ["--workdir=w", "--output=a"], "a", "--output=a is a file"),
    (predict, ["x.png", "--workdir=w", "--csv=a.csv"], "a.csv", THERE),
    (predict, ["x.png", "--workdir=w", "--draw=a"], "a/mine.txt", "--draw=a is not empty"),
    (prepare_data, ["--from_folder=w", "--npz=a.npz"], "a.npz", THERE),
    (convert_inception, ["w.pth"], "w.safetensors", THERE),
    (plot, ["w"], "curves.png", "no figure of evonorm_jax"),
    (plot, ["w", "--output=a.svg"], "a.svg", "no figure of evonorm_jax"),
    (plot, ["w"], "precision_recall.png", "no figure of evonorm_jax"),
]


@pytest.mark.parametrize(("launcher", "arguments", "name", "message"), REFUSED)
def test_a_file_of_the_users_stays(
    launcher, arguments, name, message, tmp_path, monkeypatch, refusal
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    said = refusal(launcher.main, *arguments)
    assert message in said
    assert path.read_text() == "mine"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(
        {"w.pth", path.relative_to(tmp_path).parts[0]}
    )


def test_a_table_of_a_sweep_is_drawn_over_no_file_of_the_users(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    for name in ("results.csv", "accuracy.png"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(plot, "read_results", lambda path: None)
    assert "accuracy.png' is there already" in refusal(plot.main, "results.csv")
    assert (tmp_path / "accuracy.png").read_text() == "mine"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_is_replaced_by_the_next_one(kind, tmp_path):
    from matplotlib.figure import Figure

    path = tmp_path / f"curves.{kind}"
    check_replaceable(path)
    save_figure(Figure((1, 1)), path)
    check_replaceable(path)
    Figure((1, 1)).savefig(path)  # one of the user's, by matplotlib as well
    with pytest.raises(UserError, match=re.escape(str(path))):
        check_replaceable(path)
