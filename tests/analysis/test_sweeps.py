import dataclasses
import json

import pytest

from evonorm_jax.analysis.sweep_files import is_sweep, load_sweep, read_history
from evonorm_jax.analysis.sweep_report import report
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.analysis.sweeps import Setting, Statistic
from evonorm_jax.errors import UserError
from tests.analysis.conftest import event
from tests.analysis.sweep_folders import write_run, write_sweep


@pytest.fixture
def root(tmp_path):
    return write_sweep(tmp_path / "sweep")


def test_a_sweep_is_read_from_its_run_directories(root):
    sweep = load_sweep(root)
    assert sweep.setting == Setting("digits", "embedded", "cifar_resnet20", 1, 2.0)
    assert sweep.layers == ["bn_relu", "gn_relu,group_size=8", "evonorm_s0,group_size=8"]
    assert (sweep.sizes, sweep.seeds, len(sweep.runs)) == ([8, 2], [0, 1, 2], 18)
    assert sweep.complete
    first = sweep.runs[0]
    assert (first.layer, first.images_per_worker, first.seed) == ("bn_relu", 8, 0)
    assert first.score == pytest.approx(95.0)
    assert (first.others, first.examples, first.steps, first.train_seconds) == (
        {"loss": 1.5},
        360,
        20,
        30.0,
    )
    # Processors, which the sweep has noted, say more than "1 x cpu".
    assert (first.date, first.hardware) == ("2026-01-02", "2 x ACME 3000")


def test_mean_and_spread_over_the_seeds(root):
    statistic = load_sweep(root).statistic("bn_relu", 2)
    assert statistic.mean == pytest.approx(80.0)
    assert statistic.spread == pytest.approx(1.0)  # of 79, 80, 81 with n - 1
    assert statistic.complete


def test_the_training_loss_is_the_one_logged_last_by_runs_that_have_ended(root):
    for seed, losses in enumerate(((2.0, 0.5), (2.0, 0.7))):
        path = root / "bn_relu" / "images_per_worker=8" / f"seed={seed}" / "metrics.jsonl"
        rows = [
            event(step, **{"train/loss": loss}) for step, loss in zip((10, 20), losses, strict=True)
        ]
        path.write_text(path.read_text() + "\n".join(rows) + "\n")
    sweep = load_sweep(root)
    loss = sweep.train_loss("bn_relu", 8)
    assert (loss.mean, loss.finished, loss.expected) == (pytest.approx(0.6), 2, 3)
    assert sweep.train_loss("bn_relu", 2).mean is None
    (root / "bn_relu" / "images_per_worker=8" / "seed=1" / "summary.json").unlink()
    assert load_sweep(root).train_loss("bn_relu", 8).mean == 0.5

    lines = report(sweep, []).splitlines()
    assert "| BN-ReLU | 0.600 ± 0.141 (2 of 3 seeds) | 96.0 ± 1.0 |" in lines
    assert not any(line.startswith("| GN-ReLU |") and "0.6" in line for line in lines)
    write_results(sweep, root / "results.csv")
    assert read_results(root / "results.csv").train_loss("bn_relu", 8) == loss


def test_a_difference_comes_with_its_standard_error(root):
    sweep = load_sweep(root)
    fall = sweep.difference(("bn_relu", 2), ("bn_relu", 8))
    assert fall.value == pytest.approx(-16.0)
    assert fall.error == pytest.approx((1 / 3 + 1 / 3) ** 0.5)
    assert fall.beyond_spread
    none = sweep.difference(("gn_relu,group_size=8", 8), ("bn_relu", 8))
    assert none.value == pytest.approx(-1.0)
    assert none.beyond_spread is False


def test_averaged_weights_count_where_a_run_keeps_them(tmp_path):
    path = write_run(tmp_path, "bn_relu", 8, 0, 0.9)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "ema_decay": 0.999}))
    summary = {"eval/top1": 0.9, "eval/loss": 1.0, "eval_ema/top1": 0.8, "eval_ema/loss": 2.0}
    (path / "summary.json").write_text(json.dumps(summary))
    (run,) = load_sweep(tmp_path).runs
    assert (run.score, run.others) == (pytest.approx(80.0), {"loss": 2.0})


def test_incomplete_cells_are_counted(tmp_path):
    write_run(tmp_path, "bn_relu", 8, 0, 0.9)
    write_run(tmp_path, "bn_relu", 8, 1, None)
    write_run(tmp_path, "frn", 8, 0, None, measured=False)
    sweep = load_sweep(tmp_path)
    assert sweep.statistic("bn_relu", 8) == Statistic(pytest.approx(90.0), None, 1, 2)
    assert sweep.statistic("frn", 8) == Statistic(None, None, 0, 2)
    assert not sweep.complete
    assert sweep.difference(("frn", 8), ("bn_relu", 8)) is None
    unfinished = [run for run in sweep.runs if run.score is None]
    assert [(run.layer, run.steps) for run in unfinished] == [("bn_relu", 20), ("frn", 0)]


def test_one_layer_with_several_fields_is_several_layers(tmp_path):
    write_run(tmp_path, "gn_relu,group_size=8", 8, 0, 0.9)
    write_run(tmp_path, "gn_relu,group_size=4", 8, 0, 0.8)
    write_run(tmp_path, "frn", 8, 0, 0.8)
    sweep = load_sweep(tmp_path)
    assert [sweep.layer_label(layer) for layer in sweep.layers] == [
        "GN-ReLU (group_size=4)",
        "GN-ReLU (group_size=8)",
        "FRN",
    ]
    assert (sweep.find("gn_relu"), sweep.find("frn"), sweep.find("bn_relu")) == (None, "frn", None)


def test_the_table_comes_back_as_it_was_written(root, tmp_path):
    write_run(root, "frn", 2, 0, None)
    sweep = load_sweep(root)
    write_results(sweep, tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert again.setting == sweep.setting
    assert again.layers == sweep.layers
    for read, written in zip(again.runs, sweep.runs, strict=True):
        assert read == dataclasses.replace(
            written, score=None if written.score is None else pytest.approx(written.score)
        )


def test_runs_of_different_settings_are_no_sweep(root):
    write_run(root, "frn", 2, 0, 0.9, num_workers=8)
    with pytest.raises(UserError, match=r"different settings: .* has Setting\(dataset='digits'"):
        load_sweep(root)


def test_what_is_no_sweep_is_refused(tmp_path, root):
    with pytest.raises(UserError, match="holds no runs"):
        load_sweep(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a file"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("layer,top1\nfrn,90\n")
    with pytest.raises(UserError, match="its columns must be commit, "):
        read_results(tmp_path / "results.csv")
    assert is_sweep(root)
    assert not is_sweep(root / "bn_relu" / "images_per_worker=2" / "seed=0")
    assert not is_sweep(tmp_path / "nowhere")


def test_a_history_cut_short_is_read_as_far_as_it_goes(root):
    with (root / "sweep.jsonl").open("a") as stream:
        stream.write('{"event": "sta')
    assert [event["event"] for event in read_history(root)] == ["start", "end"]
    assert read_history(root.parent) == []
