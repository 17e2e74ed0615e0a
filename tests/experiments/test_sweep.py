"""The sweep command as a user runs it, with real training in small."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evonorm_jax.analysis.sweep_files import load_sweep
from experiments import launch
from experiments.process import run_main
from tests.experiments import command_line

CONFIG = "configs/sweeps/digits_batch_size.py:smoke"
# Two cells of 40 steps, so that there is time to interrupt them.
TWO_CELLS = [
    f"--config={CONFIG}",
    "--only=*/images_per_worker=4/*",
    "--config.num_epochs=10.0",
    "--config.checkpoint_every_steps=2",
    "--config.eval_every_epochs=100.0",
]
NAMES = [
    "bn_relu/images_per_worker=4/seed=0",
    "evonorm_s0,group_size=8/images_per_worker=4/seed=0",
]


def outcome(workdir):
    """The table of a sweep without what differs from one day to the next."""
    incidental = {"train_seconds": None, "date": "", "commit": "", "hardware": ""}
    return [dataclasses.replace(run, **incidental) for run in load_sweep(workdir).runs]


def kill_with_its_runs(process):
    """SIGKILL to the sweep and to the runs, which the kernel would otherwise let save."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweeps") / "finished"
    result = command_line.run("sweep", *TWO_CELLS, f"--workdir={workdir}", "--jobs=2")
    assert result.returncode == 0, result.stdout + result.stderr
    return workdir, result.stdout


def test_every_cell_is_a_run_directory(finished):
    workdir, stdout = finished
    assert [n for n in NAMES if not (workdir / n / "summary.json").exists()] == []
    assert "2 of 2 finished" in stdout
    assert f"python -m experiments.plot {workdir} draws it." in stdout
    assert {run.steps for run in outcome(workdir)} == {40}


def test_finished_cells_are_skipped_and_the_rest_is_printed(finished):
    workdir, _ = finished
    again = command_line.run("sweep", *TWO_CELLS, f"--workdir={workdir}")
    assert again.returncode == 0
    assert "start " not in again.stdout
    # Without --only there are two more cells; their commands can be run as they stand.
    rest = [argument for argument in TWO_CELLS if not argument.startswith("--only")]
    printed = command_line.run("sweep", *rest, f"--workdir={workdir}", "--print")
    commands = [shlex.split(line) for line in printed.stdout.splitlines()]
    assert [command[:3] for command in commands] == [["python", "-m", "experiments.train"]] * 2
    assert [f"--workdir={workdir}/bn_relu/images_per_worker=2/seed=0" in commands[0]] == [True]
    overrides = [a for a in commands[0] if a.startswith("--config.")]
    config = launch.parse_config(CONFIG, overrides)
    assert (config.images_per_worker, config.model.norm_act, config.num_epochs) == (
        2,
        "bn_relu",
        10,
    )


def test_commands_that_nobody_reads_any_more(tmp_path):
    process = command_line.start("sweep", f"--config={CONFIG}", f"--workdir={tmp_path}", "--print")
    process.stdout.close()  # as `head` does
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)
    process.stderr.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_sweep_ends_with_the_same_table(finished, tmp_path):
    process = command_line.start("sweep", *TWO_CELLS, f"--workdir={tmp_path}", "--jobs=1")
    command_line.wait_for_checkpoint(process, tmp_path / NAMES[0], 4)
    kill_with_its_runs(process)
    assert not (tmp_path / NAMES[0] / "summary.json").exists()
    result = command_line.run("sweep", *TWO_CELLS, f"--workdir={tmp_path}", "--jobs=2")
    assert result.returncode == 0, result.stdout
    assert f"resume     {NAMES[0]}" in result.stdout
    assert outcome(tmp_path) == outcome(finished[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_five_kills_at_any_moment_change_nothing(tmp_path):
    # All four cells, and long enough to be there still at the fifth kill.
    arguments = [argument for argument in TWO_CELLS if not argument.startswith("--only")]
    arguments.append("--config.num_epochs=60.0")
    whole = command_line.run("sweep", *arguments, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stdout
    killed = [*arguments, f"--workdir={tmp_path / 'killed'}", "--jobs=1"]
    rng = np.random.default_rng(0)
    for _ in range(5):
        process = command_line.start("sweep", *killed)
        time.sleep(rng.uniform(4.0, 9.0))
        assert process.poll() is None, process.communicate()
        kill_with_its_runs(process)
    result = command_line.run("sweep", *killed)
    assert result.returncode == 0, result.stdout
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def main_in_process(monkeypatch, *arguments):
    """Exit code of the launcher, without the cost of a process."""
    from experiments import sweep

    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as error:
        run_main(sweep.main)
    return error.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/sweeps/nowhere.py"], "there is no file configs/sweeps/nowhere.py"),
        (["--config=configs/digits_resnet_bn_relu.py"], "has no function sweep(arg)"),
        ([f"--config={CONFIG}", "--only=gn*"], "--only 'gn*' matches no cell"),
        ([f"--config={CONFIG}", "--config.sede=1"], "config has no field 'sede'"),
        ([f"--config={CONFIG}", "--jobs=0"], "--jobs=0: at least one run"),
        ([f"--config={CONFIG}", "--ray=auto", "--print"], "--print runs nothing: leave --ray out"),
        ([f"--config={CONFIG}", "--gpus_per_run=1"], "--gpus_per_run is for --ray"),
        ([f"--config={CONFIG}", "extra"], "Unknown argument 'extra'"),
        ([f"--config={CONFIG[:-1]}"], "Unknown config argument 'smok'"),
    ],
)
def test_mistakes_end_with_one_message_and_exit_code_2(
    monkeypatch, capsys, tmp_path, arguments, message
):
    code = main_in_process(monkeypatch, f"--workdir={tmp_path / 'sweep'}", *arguments)
    stderr = capsys.readouterr().err
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "sweep").exists()


def test_a_folder_of_another_config_is_refused(monkeypatch, capsys, finished):
    workdir, _ = finished
    arguments = [*TWO_CELLS, "--config.num_epochs=3.0", f"--workdir={workdir}"]
    assert main_in_process(monkeypatch, *arguments) == 2
    assert "num_epochs: 10.0 there, 3.0 here" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = [*TWO_CELLS, f"--workdir={tmp_path / 'file' / 'sweep'}"]
    assert main_in_process(monkeypatch, *arguments) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_failed_runs_are_reported_with_their_log(tmp_path):
    broken = [*TWO_CELLS, "--config.model.fields.depth=9"]  # which only the network itself refuses
    result = command_line.run("sweep", *broken, f"--workdir={tmp_path}", "--jobs=2")
    assert result.returncode == 1
    assert f"failed: {NAMES[1]} (exit code 2)" in result.stdout
    assert f"log: {tmp_path / NAMES[1]}.log" in result.stdout
    assert "0 of 2 finished, 2 failed" in result.stdout
    assert result.stderr == ""


def test_the_driver_needs_no_tensorflow():
    code = "import sys, experiments.sweep; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=command_line.ROOT, check=True)
