"""Two processes of four devices train what one process of eight trains."""

import json
import signal

import jax
import numpy as np
import pytest

from configs import recipes
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from tests.experiments import command_line

FIELDS = {"num_workers": 4, "images_per_worker": 4, "ema_decay": 0.9}


def start_two_hosts(workdir, *arguments):
    """Starts the training command on two hosts, which share `workdir`."""
    return command_line.start_two_hosts(
        "--config=configs/digits_resnet_evonorm_s0.py:smoke",
        "--config.model.norm_act=evonorm_b0",
        *(f"--config.{name}={value}" for name, value in FIELDS.items()),
        f"--workdir={workdir}",
        *arguments,
        num_devices=4,
    )


def two_hosts(workdir, *arguments):
    """Runs the training command on two hosts to the end; their (code, out, err)."""
    processes = start_two_hosts(workdir, *arguments)
    results = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *result) for p, result in zip(processes, results, strict=True)]


def test_two_hosts_equal_one(tmp_path):
    config = recipes.smoke(recipes.digits("evonorm_b0"))
    config.update(FIELDS)
    alone = train_and_evaluate(config, tmp_path / "one")
    for code, _, err in two_hosts(tmp_path / "two"):
        assert code == 0, err
    together = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert together["eval/examples"] == alone["eval/examples"] == 20
    assert together["eval/loss"] == pytest.approx(alone["eval/loss"], rel=1e-4)

    shapes = create_experiment(config).state_shapes()
    states = []
    for name in ("one", "two"):
        with Checkpoints(tmp_path / name, read_only=True) as checkpoints:
            states.append(checkpoints.restore(shapes)[0])

    def close(a, b):
        # float32 sums over eight devices, in another order: relative to the largest of the array
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.max(np.abs(a)), 1e-2))

    jax.tree.map(close, *states)
    # The first process alone reports and writes; its rows are those of one run.
    rows = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(r)["step"] for r in rows if "train/loss" in r] == [1, 2, 3, 4]

    # The same command again: both hosts find the finished run.
    results = two_hosts(tmp_path / "two")
    assert [code for code, _, _ in results] == [0, 0]
    assert "is finished" in results[0][1]
    assert "test accuracy" in results[0][1]
    assert "test accuracy" not in results[1][1]  # one process speaks for all


def test_a_signal_to_one_host_stops_both_and_the_run_goes_on(tmp_path):
    longer = "--config.num_epochs=200.0"
    processes = start_two_hosts(tmp_path / "run", longer)
    command_line.wait_for_checkpoint(processes[0], tmp_path / "run", 4)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    saved = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    processes = start_two_hosts(tmp_path / "run", longer)
    command_line.wait_for_checkpoint(processes[0], tmp_path / "run", saved + 1)
    for process in processes:
        process.kill()
    stdout, _ = processes[0].communicate()
    processes[1].communicate()
    assert f"at step {saved} of 400" in stdout
