import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evonorm_jax.analysis.runs import layer_label, load_run, load_runs, run_labels
from evonorm_jax.errors import UserError
from tests.analysis.conftest import event

ROOT = Path(__file__).resolve().parents[2]


def values(run, name):
    return run.series[name][2].tolist()


def test_reads_config_metrics_and_summary(make_run):
    run = load_run(make_run("run", summary={"eval/top1": 0.6, "steps": 30}))
    assert run.config["model"]["name"] == "cifar_resnet20"
    assert run.metric_names == ("eval/loss", "eval/top1", "train/loss", "train/top1")
    steps, epochs, top1 = run.series["eval/top1"]
    np.testing.assert_array_equal(steps, [10, 20, 30])
    np.testing.assert_array_equal(epochs, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(top1, [0.2, 0.4, 0.6])
    assert run.summary == {"eval/top1": 0.6, "steps": 30}


def test_a_run_that_is_still_going_has_no_summary(make_run):
    assert load_run(make_run("run")).summary is None


def test_the_later_value_of_a_step_logged_twice_counts(make_run):
    # Killed after step 30, resumed from the checkpoint of step 10; eval and train lines mix.
    lines = [event(10, **{"train/loss": 1.0}), event(20, **{"train/loss": 2.0})]
    lines += [event(20, **{"eval/loss": 5.0}), event(30, **{"train/loss": 3.0})]
    lines += [event(20, **{"train/loss": 2.5}), event(30, **{"train/loss": 3.5})]
    run = load_run(make_run("run", lines=lines))
    assert values(run, "train/loss") == [1.0, 2.5, 3.5]
    assert values(run, "eval/loss") == [5.0]


@pytest.mark.parametrize("position", ["last", "middle"])
def test_a_torn_line_is_left_out_with_a_warning(make_run, caplog, position):
    torn = event(20, **{"train/loss": 2.0})[:17]
    whole = [event(10, **{"train/loss": 1.0}), event(30, **{"train/loss": 3.0})]
    lines = [*whole, torn] if position == "last" else [whole[0], torn, whole[1]]
    with caplog.at_level(logging.WARNING):
        run = load_run(make_run("run", lines=lines))
    assert values(run, "train/loss") == [1.0, 3.0]
    assert f"metrics.jsonl:{3 if position == 'last' else 2} " in caplog.text


def test_only_numbers_are_metrics_and_null_is_not_a_number(make_run):
    lines = [event(10, **{"train/loss": None, "note": "hello", "flag": True, "eval/top1": 1})]
    run = load_run(make_run("run", lines=lines))
    assert run.metric_names == ("eval/top1", "train/loss")
    assert math.isnan(values(run, "train/loss")[0])


def test_non_finite_values_are_kept(make_run):
    run = load_run(make_run("run", lines=[event(10, **{"train/loss": float("nan")})]))
    assert math.isnan(values(run, "train/loss")[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "holds no config.json"),
        (lambda path: (path / "metrics.jsonl").unlink(), "holds no metrics.jsonl"),
        (lambda path: (path / "metrics.jsonl").write_text(""), "holds no measurement yet"),
        (lambda path: (path / "config.json").write_text("{"), "is not valid JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda path: (path / "config.json").write_text('{"model": 3}'), "names no model"),
        (lambda path: (path / "metrics.jsonl").write_bytes(b"\xff\0" * 99), "no measurement yet"),
        (
            lambda path: (path / "metadata.json").write_text('{"metrics": 3}'),
            "'metrics' of metadat",
        ),
        (lambda path: (path / "metadata.json").write_text("{"), r"metadata.json' is not valid"),
    ],
)
def test_a_directory_that_is_no_run_is_refused(make_run, spoil, message):
    path = make_run("run")
    spoil(path)
    with pytest.raises(UserError, match=message):
        load_run(path)


@pytest.mark.hostile
def test_damaged_rows_and_values_are_left_out(make_run, caplog):
    huge = "9" * 400  # more than a float holds
    lines = [event(10, **{"train/loss": 1.0}), "[" * 100_000, '{"step": 20, "epoch": "x"}']
    lines += [
        '{"step": 30, "epoch": 3.0, "train/loss": ' + huge + "}",
        "\0\0",
        "[]",
        '{"epoch": 1}',
    ]
    lines += [event(40, **{"train/loss": 4.0, "train/top1": "good", "eval/loss": [1]})]
    run = load_run(make_run("run", lines=lines))
    assert run.metric_names == ("train/loss",)
    assert values(run, "train/loss") == [1.0, 4.0]
    assert "metrics.jsonl:2 and 3 more lines are not complete events" in caplog.text


@pytest.mark.hostile
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"eval/top1": "good"}', "\0"])
def test_a_damaged_summary_is_none_and_is_named(make_run, caplog, text):
    path = make_run("run")
    (path / "summary.json").write_text(text)
    assert load_run(path).summary is None
    assert f"{path / 'summary.json'} is damaged" in caplog.text


def test_metrics_of_several_kinds_of_rows_come_together_in_order(make_run):
    lines = [event(10, a=1.0), event(20, a=2.0, b=2.0), event(10, a=1.5, b=1.5), event(20, a=2.5)]
    run = load_run(make_run("run", lines=lines))
    assert run.series["a"][0].tolist() == [10, 20]
    assert values(run, "a") == [1.5, 2.5]
    assert run.series["b"][1].tolist() == [1.0, 2.0]
    assert values(run, "b") == [1.5, 2.0]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'.*nowhere' is not a directory"):
        load_run(tmp_path / "nowhere")


def test_no_directory_at_all_is_refused():
    with pytest.raises(UserError, match="at least one training run"):
        load_runs([])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("evonorm_b0", "EvoNorm-B0"),
        ("bn_relu", "BN-ReLU"),
        ("gn_swish", "GN-Swish"),
        ("frn", "FRN"),
        ("batch_instance_norm_relu", "Batch-Instance-Norm-ReLU"),
    ],
)
def test_layers_are_labelled_as_in_the_literature(name, label):
    assert layer_label(name) == label


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}], ["EvoNorm-S0, ResNet-20"]),
        ([{}, {"norm_act": "bn_relu"}], ["EvoNorm-S0", "BN-ReLU"]),
        (
            [{"images_per_worker": 4}, {"images_per_worker": 128}],
            ["EvoNorm-S0, 4 images/worker", "EvoNorm-S0, 128 images/worker"],
        ),
        ([{"seed": 1}, {"seed": 2}], ["EvoNorm-S0, seed 1", "EvoNorm-S0, seed 2"]),
    ],
)
def test_labels_show_what_tells_the_runs_apart(make_run, runs, labels):
    loaded = load_runs([make_run(f"run{i}", **fields) for i, fields in enumerate(runs)])
    assert run_labels(loaded) == labels


def test_equal_runs_are_told_apart_by_their_directory(make_run):
    paths = [make_run("first"), make_run("second")]
    assert run_labels(load_runs(paths)) == [f"EvoNorm-S0 ({path})" for path in paths]


def test_reading_runs_imports_no_training_packages():
    code = (
        "import sys, evonorm_jax.analysis.runs as r; "
        "print([m for m in ('tensorflow', 'orbax', 'clu', 'optax') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
