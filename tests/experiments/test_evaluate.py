import json
import sys

import jax
import pytest

from configs import recipes
from evonorm_jax.training import train_and_evaluate
from experiments import evaluate, launch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = recipes.smoke(recipes.digits("evonorm_s0"))
    summary = train_and_evaluate(config, workdir, devices=jax.devices()[:1])
    return workdir, summary


def test_a_checkpoint_gives_the_metrics_of_its_run(trained, monkeypatch, capsys):
    workdir, summary = trained
    # Another batch size, and all eight devices: every example still counts once.
    # The batch of the run, 2 x 4, need not fit those devices.
    arguments = ["evaluate", f"--workdir={workdir}", "--config.eval_batch_size=7"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--config.images_per_worker=3"])
    launch.run_main(evaluate.main)
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["step"] == 8
    assert metrics["eval/examples"] == 20
    assert metrics["eval/top1"] == summary["eval/top1"]
    assert metrics["eval/loss"] == pytest.approx(summary["eval/loss"], rel=1e-5)


@pytest.mark.parametrize("text", ["{", "{}", '{"seed": 0}'])
def test_a_config_of_something_else_is_refused(tmp_path, monkeypatch, capsys, text):
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit) as error:
        launch.run_main(evaluate.main)
    assert error.value.code == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=nowhere"], "nowhere is not a run directory"),
        (["--workdir={}", "--step=3"], "No checkpoint of step 3"),
        (["--workdir={}", "--config.model.name=cifar_resnet1"], "unknown model"),
        (["--workdir={}", "--config.model.norm_act=bn_relu"], "is of another model"),
        (["--workdir={}", "--config.zeal=1"], "config has no field 'zeal'"),
    ],
)
def test_mistakes_end_with_exit_code_2(trained, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["evaluate", *(a.format(trained[0]) for a in arguments)])
    with pytest.raises(SystemExit) as error:
        launch.run_main(evaluate.main)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
