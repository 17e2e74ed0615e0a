"""Two processes of one device train detectors and generators as one process of two devices does."""

import json

import jax
import pytest

from evonorm_jax.training import train_and_evaluate
from experiments import launch
from tests.experiments import command_line

pytestmark = pytest.mark.slow  # three compilations of each network, two of them at once


def on_two_hosts(workdir, *arguments):
    """Trains on two hosts to the end; what each of them prints."""
    processes = command_line.start_two_hosts(f"--workdir={workdir}", *arguments)
    printed = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=1200)
        assert process.returncode == 0, stderr
        printed.append(stdout)
    return printed


def in_this_process(workdir, num_devices, config, *fields):
    config = launch.parse_config(str(command_line.ROOT / config), fields)
    return train_and_evaluate(config, workdir, devices=jax.devices()[:num_devices])


def rows_of_training(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "train/learning_rate" in row or "train/loss_fake" in row]


def test_a_detector(tmp_path):
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    config = "configs/digit_scenes_maskrcnn_r18_fpn_bn_relu.py:smoke"
    small = ("--config.model.fields.max_level=3", "--config.model.fields.score_threshold=0.0")
    one, two = tmp_path / "one", tmp_path / "two"
    printed = on_two_hosts(two, f"--config={config}", *small)
    assert ["eval/mask_ap" in text for text in printed] == [True, False]  # one speaks for both

    alone = in_this_process(one, 2, config, *small)
    together = json.loads((two / "summary.json").read_text())
    assert together["eval/examples"] == alone["eval/examples"] == 20
    assert alone["eval/box_ap50"] > 0
    for metric in ("box_ap", "box_ap50", "mask_ap", "mask_ar100"):
        assert together[f"eval/{metric}"] == pytest.approx(alone[f"eval/{metric}"], abs=1e-4)
    losses = [[row["train/loss"] for row in rows_of_training(run)] for run in (one, two)]
    assert len(losses[0]) == 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for run in (one, two):
        assert (run / "precision_recall.csv").exists()
        assert [file.name for file in (run / "pictures").iterdir()] == ["0000008.png"]


def test_generators_draw_different_noise(tmp_path):
    """In the first step the samples' loss depends on the noise alone, both players being drawn.

    It is the mean over both hosts: if the second host drew the noise of the first, it would be
    what a single worker has.
    """
    config, short = "configs/biggan_deep_digits_evonorm_b0.py:smoke", "--config.num_steps=2"
    one, two, half = (tmp_path / name for name in ("one", "two", "half"))

    def losses(workdir):
        return [
            (row["train/loss_fake"], row["train/score_fake"]) for row in rows_of_training(workdir)
        ]

    on_two_hosts(two, f"--config={config}", short)
    alone = in_this_process(one, 2, config, short)
    in_this_process(half, 1, config, short, "--config.num_workers=1")
    assert len(losses(one)) == 2
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-4, abs=1e-6)
    assert losses(two)[1] == pytest.approx(losses(one)[1], rel=1e-3)  # a step of Adam lies between
    assert losses(half)[0] != pytest.approx(losses(two)[0], rel=1e-2)
    together = json.loads((two / "summary.json").read_text())
    assert together["eval/examples"] == alone["eval/examples"] == 20
    assert together["eval/score_gap"] == pytest.approx(alone["eval/score_gap"], rel=0.02)
    assert (two / "samples" / "0000002.png").is_file()
