import functools
import json
import shutil
import sys

import jax
import numpy as np
import optax
import pytest

from configs import recipes
from evonorm_jax.data import Hosts, create_pipeline
from evonorm_jax.interop import create_timm_model, from_timm_state_dict, timm_tensors
from evonorm_jax.interop.safetensors_file import write_safetensors
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from experiments import evaluate, launch
from experiments.config_file import ROOT
from experiments.process import run_main
from tests.interop.cases import make_case


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
    run_main(evaluate.main)
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["step"] == 8
    assert metrics["eval/examples"] == 20
    assert metrics["eval/top1"] == summary["eval/top1"]
    assert metrics["eval/loss"] == pytest.approx(summary["eval/loss"], rel=1e-5)


@pytest.mark.hostile
def test_a_damaged_checkpoint_is_not_evaluated(trained, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    (workdir / "checkpoints" / "8" / "data" / "metadata").write_text("")
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={workdir}"])
    run_main(evaluate.main)
    assert json.loads(capsys.readouterr().out)["step"] == 4
    assert (workdir / "checkpoints" / "8").exists()  # reading changes nothing

    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={workdir}", "--step=8"])
    with pytest.raises(SystemExit) as error:
        run_main(evaluate.main)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "is damaged: data/metadata has 0 bytes instead of" in message
    assert "Whole ones: 4." in message


@pytest.mark.hostile
def test_weights_that_are_not_finite_have_no_metrics(trained, monkeypatch, capsys):
    restore = Checkpoints.restore

    def diverged(self, *arguments, **options):
        state, config = restore(self, *arguments, **options)
        return state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params)), config

    monkeypatch.setattr(Checkpoints, "restore", diverged)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={trained[0]}"])
    with pytest.raises(SystemExit) as stopped:
        run_main(evaluate.main)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "at step 8: " in captured.err
    assert "the first is 'params/" in captured.err
    assert captured.out == ""


@pytest.mark.hostile
def test_metrics_are_strict_json(capsys):
    metrics = {"eval/loss": float("nan"), "eval/top1": 0.5, "worst": float("-inf"), "model": "x"}
    expected = {"eval/loss": None, "eval/top1": 0.5, "worst": None, "model": "x"}
    assert json.loads(evaluate.as_json(metrics), parse_constant=pytest.fail) == expected
    assert capsys.readouterr().err == "evaluate: not finite, so null: eval/loss, worst.\n"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Weights of timm's smallest network here, for ten classes and grey images."""
    tensors = timm_tensors("mobilenetv2_050", num_classes=10, channels=1)
    shapes = {name: tensor.timm_shape for name, tensor in tensors.items()}
    state_dict = make_case(shapes, batch=1, image_size=8, num_classes=10).state_dict
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_050.lamb_in1k.safetensors"
    write_safetensors(state_dict, path)
    return path, from_timm_state_dict(state_dict, "mobilenetv2_050")


WEIGHTS = ["--weights={}", "--model=mobilenetv2_050.lamb_in1k"]
SMOKE = f"--config={ROOT}/configs/digits_resnet_bn_relu.py:smoke"


def test_weights_of_timm_are_evaluated_on_the_data_of_a_config(weights_file, monkeypatch, capsys):
    path, variables = weights_file
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--weights={path}", SMOKE])
    run_main(evaluate.main)
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["weights"] == str(path)
    assert metrics["model"] == "mobilenetv2_050.lamb_in1k"  # the file is called so
    assert metrics["images"] == "8 pixels, mean 77.98, std 95.89"  # grey, as the config says
    assert metrics["eval/examples"] == 20

    # The same from the network itself, image by image.
    config = launch.parse_config(SMOKE.removeprefix("--config="), [])
    pipeline = create_pipeline(config.dataset, seed=config.seed, evaluation_only=True)
    (batch,) = pipeline.eval_batches(batch_size=20, hosts=Hosts())
    examples = pipeline.eval_examples(
        pipeline.resident(), jax.tree.map(lambda array: array[0], batch)
    )
    images, labels = examples["image"], examples["label"]
    network = functools.partial(create_timm_model("mobilenetv2_050", 10).apply, train=False)
    logits = jax.jit(network)(variables, images)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert metrics["eval/loss"] == pytest.approx(float(expected), rel=1e-4)
    assert metrics["eval/top1"] == pytest.approx(float((logits.argmax(-1) == labels).mean()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights={}"], "--weights needs --config as well"),
        (["--weights=own.safetensors"], "--weights needs --model and --config as well"),
        (["--weights=own.safetensors", SMOKE], "--weights needs --model as well"),
        ([*WEIGHTS, SMOKE, "--step=3"], "--step cannot go with --weights"),
        ([*WEIGHTS, SMOKE, "--checkpoint=best"], "--checkpoint cannot go with --weights"),
        (["--workdir=runs/x", "--model=resnet50"], "--model cannot go with --workdir"),
        (["--workdir=runs/x", "--weights={}"], "not allowed with argument"),
        ([], "one of the arguments --workdir --weights is required"),
        (["--weights=no.safetensors", "--model=resnet50", SMOKE], "no.safetensors is not there"),
        (["--weights=resnet50.a1_in1k", SMOKE], "prepare_data --weights resnet50.a1_in1k` downl"),
        (["--weights={}", "--model=resnet99", SMOKE], "timm's 'resnet99' has no counterpart"),
        (["--weights={}", "--model=resnet18", SMOKE], "not those of timm's resnet18"),
        ([*WEIGHTS, "--config=nothing.py"], "there is no file nothing.py"),
        ([*WEIGHTS, SMOKE, "--config.dataset.num_classes=7"], "has 10 classes, digits 7"),
        ([*WEIGHTS, SMOKE, "--config.dtype=int8"], "config.dtype='int8'"),
    ],
)
def test_mistakes_with_weights_end_with_exit_code_2(
    weights_file, monkeypatch, capsys, arguments, message
):
    monkeypatch.setattr(sys, "argv", ["evaluate", *(a.format(weights_file[0]) for a in arguments)])
    with pytest.raises(SystemExit) as error:
        run_main(evaluate.main)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "{}", '{"seed": 0}'])
def test_a_config_of_something_else_is_refused(tmp_path, monkeypatch, capsys, text):
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit) as error:
        run_main(evaluate.main)
    assert error.value.code == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=nowhere"], "nowhere is not there. Name the --workdir of a run"),
        (["--workdir={}", "--step=3"], "No checkpoint of step 3"),
        (["--workdir={}", "--config.model.name=cifar_resnet1"], "unknown model"),
        (["--workdir={}", "--config.model.norm_act=bn_relu"], "is of another model"),
        (["--workdir={}", "--config.zeal=1"], "config has no field 'zeal'"),
    ],
)
def test_mistakes_end_with_exit_code_2(trained, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["evaluate", *(a.format(trained[0]) for a in arguments)])
    with pytest.raises(SystemExit) as error:
        run_main(evaluate.main)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
