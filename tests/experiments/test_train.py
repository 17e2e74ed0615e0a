"""The training command as a user runs it: what it prints, how it ends, what survives a kill."""

import json
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import recipes
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from experiments.process import run_main
from tests.experiments import command_line

CONFIG = "configs/digits_resnet_evonorm_s0.py:smoke"
# 40 steps, so that there is time to interrupt them.
LONG = [
    f"--config={CONFIG}",
    "--config.num_epochs=10.0",
    "--config.checkpoint_every_steps=2",
    "--config.eval_every_epochs=100.0",
]


def final_params(workdir: Path):
    config = recipes.smoke(recipes.digits("evonorm_s0"))
    config.num_epochs = 10.0
    shapes = create_experiment(config, jax.devices()[:1]).state_shapes()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(shapes)
    assert state.step == 40
    return state.params


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    result = command_line.run("train", *LONG, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


def assert_same_run(workdir, other):
    jax.tree.map(np.testing.assert_array_equal, final_params(workdir), final_params(other))
    rows = [
        [json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()]
        for w in (workdir, other)
    ]
    seen = [[(r["step"], r["train/loss"]) for r in run if "train/loss" in r] for run in rows]
    assert seen[0] == seen[1]
    assert [step for step, _ in seen[0]] == list(range(1, 41))


def test_the_end_says_where_everything_is(uninterrupted):
    workdir, result = uninterrupted
    assert "test accuracy" in result.stdout
    for name in ("metrics.jsonl", "curve.png", "confusion_matrix.png", "checkpoints/40"):
        assert str(workdir / name) in result.stdout
        assert (workdir / name).exists()
    assert result.stderr == ""


def test_a_killed_run_resumes_bit_for_bit(uninterrupted, tmp_path):
    process = command_line.start("train", *LONG, f"--workdir={tmp_path / 'run'}")
    command_line.wait_for_checkpoint(process, tmp_path / "run", 4)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "summary.json").exists()
    result = command_line.run("train", *LONG, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "Resuming" in result.stdout
    assert_same_run(tmp_path / "run", uninterrupted[0])


def test_sigterm_saves_and_exits_cleanly(uninterrupted, tmp_path):
    process = command_line.start("train", *LONG, f"--workdir={tmp_path / 'run'}")
    command_line.wait_for_checkpoint(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "SIGTERM: saved step" in stdout
    result = command_line.run("train", *LONG, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "run", uninterrupted[0])


@pytest.mark.slow
def test_kills_at_any_moment_never_spoil_a_run(uninterrupted, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = command_line.start("train", *LONG, f"--workdir={tmp_path / 'run'}")
        time.sleep(rng.uniform(0.5, 12.0))
        process.kill()
        process.communicate()
    result = command_line.run("train", *LONG, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "run", uninterrupted[0])


def main_in_process(monkeypatch, *arguments):
    """Exit code of the launcher, without the cost of a process."""
    from experiments import train

    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as error:
        run_main(train.main)
    return error.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nowhere.py"], "there is no file configs/nowhere.py"),
        (
            ["--config=configs/finetune_foldr.py"],
            "Did you mean configs/finetune_folder.py? The ready",
        ),
        (["--config.sede=1"], "config has no field 'sede'. Did you mean seed? It has: "),
        (["--config.momentum=1"], "no field 'momentum'. Did you mean config.optimizer.momentum?"),
        (["--config.optimizer.lr=1"], "config.optimizer has no field 'lr'. It has: "),
        (["--config.seed=abc"], "--config.seed=abc: int is expected, such as 0"),
        (["--config.seed"], "--config.seed needs a value"),
        (["--config.seed.x=1"], "config.seed is a value and has no fields"),
        (["--config.optimizer=3"], "dict is expected"),
        (["--config.model.norm_act_fields.groups=3"], "unknown field of EvoNormS0 'groups'"),
        (
            [f"--config={CONFIG.replace('smoke', 'smok')}"],
            "'smok' after the colon. Did you mean smoke? This",
        ),
        (["--config=configs/recipes.py"], "has no function get_config(arg)"),
        (["--config.model.norm_act_fields.group_size=7"], "group_size=7 must divide"),
        (["--config.model.norm_act_fields.epsilon=abc"], "it must be a finite number, at least 0"),
        (["--config.model.norm_act_fields.num_groups=2.5"], "expected NoneType or int"),
        (["--config.model.norm_act_fields.epsilon=-1"], "it must be at least 0"),
        (["--config.profile_steps=2"], "config.profile_start_step is 0"),
        (["--confgi=x"], "Unknown argument '--confgi=x'"),
        (["extra"], "Unknown argument 'extra'"),
        (["--config.model.norm_act=evonorm"], "unknown layer 'evonorm'"),
        (["--config.images_per_worker=0"], "config.images_per_worker=0; it must be at least 1"),
        (["--num_processes=2"], "--coordinator_address, --process_id is missing"),
        (
            ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 must be from 0 to 1",
        ),
    ],
)
def test_mistakes_end_with_one_message_and_exit_code_2(
    monkeypatch, capsys, tmp_path, arguments, message
):
    code = main_in_process(monkeypatch, f"--workdir={tmp_path / 'run'}", *arguments)
    stderr = capsys.readouterr().err
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_help_names_what_a_user_needs(monkeypatch, capsys):
    assert main_in_process(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for name in ("--config", "--workdir", "--coordinator_address", ":smoke", "resumes"):
        assert name in text


def test_training_imports_no_tensorflow(tmp_path):
    code = (
        "import sys; from experiments import launch, train; from configs import recipes; "
        "from evonorm_jax import training; "
        "training.train_and_evaluate(recipes.smoke(recipes.digits('bn_relu')), sys.argv[1]); "
        "assert 'tensorflow' not in sys.modules, 'imported'"
    )
    import subprocess

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=command_line.ROOT,
        env=command_line.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def test_the_config_is_printed_with_its_overrides(monkeypatch, capsys, tmp_path):
    from experiments import train

    arguments = [
        "--config.optimizer.momentum=0.5",
        "--print_config",
        f"--workdir={tmp_path / 'run'}",
    ]
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    run_main(train.main)
    printed = json.loads(capsys.readouterr().out)
    expected = recipes.digits("evonorm_s0")
    expected.optimizer.momentum = 0.5
    assert printed == json.loads(expected.to_json())
    assert not (tmp_path / "run").exists()
