"""The launcher of the ranking with engines that know their scores: it goes on, and reports."""

import sys

import pytest

from evonorm_jax.search.engine import engine
from evonorm_jax.search.engine.verdicts import Verdict
from experiments import proxy_ranking
from experiments.process import run_main


class KnowingEngine:
    """Scores a layer by the length of its text, and a long training twice as high."""

    def __init__(self, protocol, data, *, whole_network):
        self.protocol, self.data = protocol, data
        self.factor = 1 + (whole_network == "always")
        self.evaluated = 0

    def evaluate(self, graph, seed):
        self.evaluated += 1
        accuracy = self.factor * len(str(graph)) / 10
        return Verdict("scored", scores=dict.fromkeys(self.protocol.anchor_names, accuracy))


@pytest.fixture
def rank(monkeypatch, tmp_path):
    """Runs the command in a folder, and returns the engines that it made."""

    def run(*arguments):
        made = []

        def make(*args, **fields):
            made.append(KnowingEngine(*args, **fields))
            return made[-1]

        monkeypatch.setattr(engine, "Engine", make)
        sizes = ("--random=1", "--children=1", f"--output={tmp_path / 'ranking'}")
        monkeypatch.setattr(sys, "argv", ["ranking", "--data=small.npz", *sizes, *arguments])
        run_main(proxy_ranking.main)
        return made

    return run


def test_ranks_goes_on_and_reports(rank, tmp_path):
    made = rank("--full=full.npz")
    assert [one.evaluated for one in made] == [21] * 6
    for one in made:
        image_size, crop_size = (32, 24) if one.data.path == "full.npz" else (8, 0)
        assert (one.data.image_size, one.data.pad) == (image_size, 4 if crop_size else 1)
        assert one.protocol.crop_size == crop_size
        assert (one.data.eval_split == "test") == (one.data.path == "")  # the digits
    folder = tmp_path / "ranking"
    report = (folder / "README.md").read_text("utf-8")
    assert report.startswith("# How well cheap protocols rank layers\n")
    for proxy in ("mobile", "resnet", "pair", "digits", "tiny"):
        assert f"| `{proxy}` |" in report
    assert report.count("| 1.00 (1.00 to 1.00) |") >= 5
    assert len((folder / "layers.csv").read_text("utf-8").splitlines()) == 22
    assert (folder / "ranking.png").stat().st_size > 10_000

    for name in ("README.md", "layers.csv", "ranking.png"):
        (folder / name).unlink()
    records = (folder / "records.jsonl").read_bytes()
    assert rank("--report") == []
    assert (folder / "README.md").is_file()
    again = rank("--full=full.npz")
    assert [one.evaluated for one in again] == [0] * 6
    assert (folder / "records.jsonl").read_bytes() == records


def test_records_of_other_data_are_refused(rank, tmp_path, capsys):
    folder = tmp_path / "ranking"
    folder.mkdir()
    (folder / "records.jsonl").write_text('{"seed": 1}\n')
    for arguments, message in (
        ((), "another protocol, data set or seed"),
        (("--report",), "0 layers are scored by every protocol"),
        (("--report", "--output=nowhere"), "--output must name the folder of a ranking"),
    ):
        with pytest.raises(SystemExit) as stop:
            rank(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["records.jsonl"]
