"""Damaged and foreign files in the folder of a sweep."""

import csv
import json
import logging

import pytest

from evonorm_jax.analysis.runs import load_run
from evonorm_jax.analysis.sweep_files import load_sweep, read_history
from evonorm_jax.analysis.sweep_report import provenance, report
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import CLASSIFICATION
from tests.analysis.sweep_folders import COMMIT, write_run, write_sweep

pytestmark = pytest.mark.hostile


@pytest.fixture
def table(tmp_path):
    """A table of two runs: lines 2 and 3."""
    for seed in (0, 1):
        write_run(tmp_path / "sweep", "bn_relu", 8, seed, 0.9)
    path = tmp_path / "results.csv"
    write_results(load_sweep(tmp_path / "sweep"), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "has no rows"),
        (lambda content: content.split(b"\n")[0], "has no rows"),
        (lambda content: content + b"\xff", "line 4 is not UTF-8"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + content, "line 1 is not UTF-8"),
        (lambda content: content[:-9] + b"\0" + content[-9:], "line 3 holds a NUL byte"),
        (lambda content: content[: content.rindex(b",")], "line 3, column 'hardware': the row"),
        (lambda content: content[:-1] + b",7\n", "line 3: the row has"),
        (lambda content: content + b'"', "line 4 is no row of a table"),
        (lambda content: content.replace(b"seed", b"sead", 1), "missing are seed"),
        (lambda content: content.replace(b"seed", b"main_metric", 1), "missing are .*label"),
    ],
)
def test_a_damaged_table_is_told_by_its_line(table, change, message):
    table.write_bytes(change(table.read_bytes()))
    with pytest.raises(UserError, match=rf"results\.csv'.*{message}"):
        read_results(table)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images_per_worker", "eight"),
        ("seed", ""),
        ("steps", "2.5"),
        ("top1", "90 %"),
        ("loss", "low"),
        ("examples", "all"),
        ("train_seconds", "0:30"),
    ],
)
def test_a_text_where_a_number_belongs_is_told_by_line_and_column(table, column, value):
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    rows[1][header.index(column)] = value
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    with pytest.raises(UserError, match=f"line 3, column '{column}': '{value}' is not a "):
        read_results(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "'seed' is not a whole number"),
        ({"images_per_worker": "8"}, "'images_per_worker' is not a whole number"),
        ({"num_workers": True}, "'num_workers' is not a whole number"),
        ({"num_epochs": [2]}, "'num_epochs' is not a number"),
        ({"dataset": "digits"}, "the block 'dataset' is missing"),
        ({"dataset": {"name": "digits"}}, "'source' is missing"),
        ({"model": {"name": ["x"], "norm_act": "frn"}}, "'name' is not a text"),
        ({"model": {"name": "x", "norm_act": "frn", "fields": 3}}, "'fields' is not a block"),
    ],
)
def test_a_run_with_a_foreign_config_is_left_out_and_told_once(tmp_path, caplog, change, message):
    good, bad = (write_run(tmp_path, "bn_relu", 8, seed, 0.9) for seed in (0, 1))
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | change))
    with caplog.at_level(logging.WARNING):
        assert [run.seed for run in load_sweep(tmp_path).runs] == [0]
    (record,) = caplog.records
    assert "1 of 2 runs" in record.message
    assert f"the first is {bad}, where {message}" in record.message
    (good / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds no run of a sweep: in .*seed=0"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("starts", "commit"),
    [
        (3, ""),
        ({"0": {}}, ""),
        ("today", ""),
        (["today"], ""),
        ([None], ""),
        ([{"time": 17, "commit": COMMIT, "devices": "1 x cpu"}], COMMIT),
        ([{"time": "2026-01-02", "commit": COMMIT, "devices": ["cpu"]}], COMMIT),
        ([{"time": "2026-01-02", "commit": {}, "devices": "1 x cpu"}], ""),
    ],
)
def test_what_is_damaged_of_a_start_is_left_out_and_told(tmp_path, caplog, starts, commit):
    path = write_run(tmp_path, "bn_relu", 8, 0, 0.9) / "metadata.json"
    path.write_text(json.dumps({"starts": starts}))
    with caplog.at_level(logging.WARNING):
        sweep = load_sweep(tmp_path)
    assert [(run.score, run.commit) for run in sweep.runs] == [(90.0, commit)]
    (record,) = caplog.records
    assert record.message.startswith(f"{path}: 'starts' is damaged")
    assert provenance(sweep, []).count("- commit:") == 1


@pytest.mark.parametrize("starts", [[], None, [{}], [{"commit": None}]])
def test_a_start_that_noted_less_is_not_damaged(tmp_path, caplog, starts):
    path = write_run(tmp_path, "bn_relu", 8, 0, 0.9) / "metadata.json"
    path.write_text(json.dumps({"starts": starts}))
    with caplog.at_level(logging.WARNING):
        assert load_sweep(tmp_path).runs[0].commit == ""
    assert caplog.records == []


@pytest.mark.parametrize("value", ["30", [30], {}, True])
def test_seconds_of_training_that_are_no_number_are_a_damaged_summary(tmp_path, caplog, value):
    path = write_run(tmp_path, "bn_relu", 8, 0, 0.9) / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train_seconds": value}))
    with caplog.at_level(logging.WARNING):
        sweep = load_sweep(tmp_path)
    assert [(run.score, run.train_seconds, run.steps) for run in sweep.runs] == [(None, None, 20)]
    assert f"{path} is damaged: the run counts as unfinished" in caplog.text
    assert "0.0 min of training" in provenance(sweep, [])


@pytest.mark.parametrize(
    "change", [{"main_metric": 3}, {"shown": [1]}, {"known": []}, {"known": {"loss": {"label": 1}}}]
)
def test_metrics_of_a_foreign_type_are_told_with_their_run(tmp_path, change):
    folder = write_run(tmp_path, "bn_relu", 8, 0, 0.9)
    metrics = CLASSIFICATION.to_json() | change
    (folder / "metadata.json").write_text(json.dumps({"metrics": metrics}))
    for load, path in ((load_sweep, tmp_path), (load_run, folder)):
        with pytest.raises(UserError, match=rf"'{folder}': The field 'metrics' of metadata.json"):
            load(path)


def test_rows_of_the_history_that_are_none_are_left_out(tmp_path):
    root = write_sweep(tmp_path / "sweep")
    whole = read_history(root)
    expected = report(load_sweep(root), whole)
    rows = [3, [], {}, {"event": "start"}, {"event": "end"}, {"event": "end", "seconds": "9"}]
    start = {"event": "start", "command": ["a"], "config": "c.py", "jobs": 1}
    rows += [start | {"command": "a b"}, start | {"config": None}, start | {"machine": []}]
    with (root / "sweep.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    assert read_history(root) == whole
    assert report(load_sweep(root), read_history(root)) == expected


def test_an_end_without_its_start_is_reported(tmp_path):
    root = write_sweep(tmp_path / "sweep")
    text = report(load_sweep(root), [{"event": "end", "seconds": 90.0}])
    assert "; 1.5 min in all\n" in text


def test_a_command_of_the_report_can_be_pasted(tmp_path):
    root = write_sweep(tmp_path / "sweep")
    command = ["/usr/bin/python3", "-m", "experiments.sweep", "--only", "*/seed=0", "--x=a b"]
    start = {"event": "start", "command": command, "config": "none.py", "jobs": 1}
    text = report(load_sweep(root), [start])
    assert "\npython -m experiments.sweep --only '*/seed=0' '--x=a b'\n" in text


@pytest.mark.parametrize("content", [b"def broken(:\n", b"\xff\xfe", b"x = 1\0\n"])
def test_a_config_file_that_is_none_any_more_has_no_remarks(tmp_path, content):
    root = write_sweep(tmp_path / "sweep")
    config = tmp_path / "config.py"
    config.write_bytes(content)
    start = {"event": "start", "command": ["python"], "config": str(config), "jobs": 1}
    text = report(load_sweep(root), [start])
    assert "## The recipe" not in text
    assert f"- config: `{config}`" in text
