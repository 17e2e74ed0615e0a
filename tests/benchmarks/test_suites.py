"""Every suite runs in its quick form, and its files are complete. No time is asserted."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.benchmarks import (
    gpu,
    gpu_cifar10,
    gpu_layers,
    gpu_numbers,
    gpu_steps,
    gpu_transfer,
    layers,
    plain_search,
    search,
    startup,
    suite,
    train_step,
)
from evonorm_jax.benchmarks import input as input_suite
from evonorm_jax.benchmarks.report import as_json
from evonorm_jax.errors import UserError
from evonorm_jax.graphs import Graph
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import norm_act
from evonorm_jax.training.experiment import create_experiment
from experiments.config_file import ROOT
from experiments.launch import parse_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def lines():
    return []


@pytest.fixture
def options(lines):
    return suite.Options(quick=True, log=lines.append)


def measured(report, group=None):
    return {
        result.contender
        for result in report.results
        if result.seconds and group in (None, result.group)
    }


def check(report, rounds=2):
    json.dumps(as_json(report, {}))
    contenders = {result.contender for result in report.results}
    for result in report.results:
        assert bool(result.seconds) != bool(result.note), result
        assert len(result.seconds) in (0, rounds)
        assert all(second > 0 for second in result.seconds)
        assert all(value >= 0 for value in result.figures.values())
    shown = [pair for pair in report.comparisons if set(pair) <= contenders]
    assert shown, "nothing is compared"


def check_no_comparison(report):
    json.dumps(as_json(report, {}))
    assert report.comparisons == ()
    assert all(result.seconds for result in report.results)


def test_layers(options, lines, tmp_path, monkeypatch):
    monkeypatch.setattr(layers.torch_rivals.importlib.util, "find_spec", lambda name: None)
    report = suite.run_suite("layers", options, tmp_path, "here")
    check(report)
    for dtype in layers.DTYPES:
        assert measured(report, dtype) == {*layers.OURS, *layers.THEIRS, layers.LIMIT}
    notes = {result.contender: result.note for result in report.results if result.note}
    assert notes["BN-ReLU, PyTorch"] == "torch is not installed"
    assert len(notes) == len(layers.torch_rivals.RIVALS)
    for name in layers.OURS:
        figures = report.find("float32", "2x4x4x64", name).figures
        assert set(figures) == {
            layers.TRANSFERS,
            "residuals, copies of x",
            "temporaries, copies of x",
            "compile seconds",
        }
        assert figures["residuals, copies of x"] >= 1
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == ["layers_quick.json", "layers_quick.md", "layers_quick.png"]
    assert lines[-1].startswith("written: ")


def test_every_comparison_of_the_layers_names_contenders():
    known = {*layers.OURS, *layers.THEIRS, layers.LIMIT, *layers.torch_rivals.RIVALS}
    assert {name for pair in layers.COMPARISONS for name in pair} <= known


@pytest.mark.parity
def test_layers_against_torch_and_timm(options):
    pytest.importorskip("torch")
    report = layers.measure(options)
    check(report)
    assert set(layers.torch_rivals.RIVALS) <= measured(report, "float32")
    assert set(layers.torch_rivals.RIVALS) <= measured(report, "bfloat16")


@pytest.mark.parametrize("workload", train_step.WORKLOADS, ids=lambda workload: workload.name)
def test_every_network_of_the_train_step_takes_its_layers(workload):
    images = jnp.zeros((1, workload.image_size, workload.image_size, 3))
    for name in workload.contenders:
        layer = train_step.CONTENDERS[name].layer
        model = create_model(workload.model, 10, norm_act=layer, **workload.fields)
        init = functools.partial(model.init, train=False)
        assert jax.eval_shape(init, jax.random.key(0), images)["params"]


def test_every_comparison_of_the_train_step_names_contenders():
    assert {name for pair in train_step.COMPARISONS for name in pair} <= set(train_step.CONTENDERS)


@pytest.mark.tensorflow
def test_input(options):
    report = input_suite.measure(options)
    check(report)
    assert len(report.groups()) == 3
    everyone = {input_suite.ALONE, input_suite.IN_TURN, input_suite.AHEAD}
    assert all(measured(report, group) == everyone for group in report.groups())


def test_input_without_tensorflow(options, monkeypatch):
    monkeypatch.setattr(input_suite.importlib.util, "find_spec", lambda name: None)
    report = input_suite.measure(options)
    check(report)
    *others, folder = report.groups()
    assert all(measured(report, group) for group in others)
    notes = {result.note for result in report.results if result.group == folder}
    assert notes == {"TensorFlow is not installed"}


@pytest.mark.tensorflow
def test_input_of_a_folder_that_is_not_there(options, tmp_path):
    missing = suite.Options(quick=True, data=str(tmp_path / "nowhere"), log=options.log)
    with pytest.raises(UserError, match="nowhere"):
        input_suite.measure(missing)


def test_startup_in_processes_of_its_own(options, monkeypatch):
    commands = []

    def run(command, **keywords):
        commands.append(command)
        return original(command, **keywords)

    original = startup.subprocess.run
    monkeypatch.setattr(startup.subprocess, "run", run)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    report = startup.measure(options)
    check(report, rounds=1)
    assert measured(report) == {*startup.IMPORTS, startup.COLD, startup.WARM}
    trained = [command for command in commands if "experiments.train" in command]
    assert len(trained) == 2  # the second has the compile cache of the first
    assert all("--config.num_steps=1" in command for command in trained)


def test_startup_passes_the_error_of_the_run_on(tmp_path):
    with pytest.raises(UserError, match=r"there is no file nowhere\.py"):
        startup.first_step_seconds("nowhere.py", tmp_path / "run", tmp_path / "cache")


def test_startup_outside_of_a_clone(options, monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "ROOT", tmp_path)
    with pytest.raises(UserError, match="run it in a clone"):
        startup.measure(options)


def test_search(options, lines):
    """Also: the plain way reaches the engine's verdict on whatever both train."""
    report = search.measure(options)
    check(report, rounds=1)
    for case in ("random graphs", "one-mutation children"):
        ours, plain, watched, thrifty = (
            report.find("seconds per candidate", case, name)
            for name in (search.OURS, search.PLAIN, search.WATCHED, search.THRIFTY)
        )
        assert ours.figures["equal verdicts"] == ours.figures["both trained"] > 0
        assert thrifty.seconds <= watched.seconds <= plain.seconds
        assert not [line for line in lines if "differ" in line]


SEES_X = Graph.from_text("n4 = tanh(x)")
SEES_NONE = Graph.from_text("n4 = exp(v1)")


@pytest.mark.parametrize(
    ("graph", "networks", "expected"),
    [
        # accuracy in percent, seconds, seconds until the loss was not finite
        (SEES_X, [(30.0, 1, None), (20.0, 2, None), (40.0, 4, None)], (True, 7, 7, 7)),
        (SEES_X, [(30.0, 1, None), (19.9, 2, None), (40.0, 4, None)], (False, 7, 7, 3)),
        (SEES_X, [(30.0, 1, None), (10.0, 2, 0.5), (40.0, 4, None)], (False, 7, 1.5, 1.5)),
        (SEES_X, [(10.0, 1, 0.25), (10.0, 2, 0.5), (10.0, 4, 0.5)], (False, 7, 0.25, 0.25)),
        (SEES_NONE, [(10.0, 1, None), (10.0, 2, None), (10.0, 4, None)], (False, 7, 0, 0)),
    ],
)
def test_what_the_plain_ways_spend(graph, networks, expected, monkeypatch):
    monkeypatch.setattr(plain_search, "_train", lambda network, *args: network)
    verdict = plain_search.judge(networks, search._QUICK.protocol, graph, seed=0)
    passed, *seconds = expected
    assert search._QUICK.protocol.quality_accuracy == 20
    assert verdict.passed is passed
    assert [verdict.seconds, verdict.seconds_watched, verdict.seconds_thrifty] == seconds


def test_search_needs_real_images(options):
    with pytest.raises(UserError, match=r"name its \.npz file"):
        search.measure(suite.Options())


@pytest.mark.parametrize("module", [gpu_numbers, gpu_layers, gpu_steps, gpu_cifar10, gpu_transfer])
def test_gpu_stages_refuse_a_machine_without_one(module):
    with pytest.raises(UserError, match="needs a GPU"):
        module.measure(suite.Options())


def test_the_gpu_suite_refuses_a_machine_without_one(tmp_path):
    with pytest.raises(UserError, match="needs a GPU"):
        suite.run_suite("gpu", suite.Options(stages=("numbers", "layers")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_gpu_numbers_need_the_processor_as_well(options, monkeypatch):
    devices = jax.devices

    def only_cuda(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return devices(backend)

    monkeypatch.setattr(jax, "devices", only_cuda)
    with pytest.raises(UserError, match="set JAX_PLATFORMS=cuda,cpu, or unset it"):
        gpu_numbers.measure(options)


def test_gpu_numbers(options, monkeypatch):
    monkeypatch.setattr(gpu_numbers, "DTYPES", ("float32",))
    report = gpu_numbers.measure(options)
    json.dumps(as_json(report, {}))
    figures = {result.contender: dict(result.figures) for result in report.results}
    assert set(figures) == {
        "evonorm_s0, pallas",
        "evonorm_s0, pallas_shortcut",
        "evonorm_s0, xla",
        "evonorm_b0, xla",
        "bn_relu",
        "gn_relu",
    }
    right = ("evonorm_s0, pallas_shortcut", "evonorm_s0, xla", "evonorm_b0, xla")
    for contender in (*right, "bn_relu", "gn_relu"):
        deviations = figures[contender]
        assert deviations.pop(gpu_numbers.BEYOND) == 0
        assert set(deviations) == {"y", "dx", "dparams"}
        assert all(0 < value < 1e-4 for value in deviations.values())


def test_gpu_numbers_see_a_wrong_layer(monkeypatch):
    wrong = gpu_numbers.Subject("evonorm_s0", "xla")
    monkeypatch.setattr(
        gpu_numbers.Subject, "layer", lambda self: norm_act("evonorm_s0", epsilon=0.1)()
    )
    found = gpu_numbers.deviations(wrong, (2, 3, 3, 32), "float32")
    assert all(value > 1e-4 for value in found.values())


def test_gpu_layers(options, monkeypatch):
    some = {"EvoNorm-S0": layers.OURS["EvoNorm-S0"]}
    monkeypatch.setattr(gpu_layers, "contenders", lambda: some)
    report = gpu_layers.measure(options)
    check(report)
    assert measured(report) == {gpu_layers.LAUNCH, layers.LIMIT, "EvoNorm-S0"}
    limit = report.find("bfloat16", "2x4x4x64", layers.LIMIT)
    assert limit.figures[layers.TRANSFERS] == layers.LIMIT_TRANSFERS


def test_gpu_layers_leave_out_what_the_time_does_not_suffice_for(monkeypatch):
    options = suite.Options(quick=True, minutes=0.0, log=lambda line: None)
    some = {"EvoNorm-S0": layers.OURS["EvoNorm-S0"]}
    monkeypatch.setattr(gpu_layers, "contenders", lambda: some)
    left_out = gpu_layers.measure(options).find("bfloat16", "2x4x4x64", "EvoNorm-S0")
    assert (left_out.seconds, left_out.note) == ((), "not run: 0 s were over")


def test_gpu_steps(options):
    saved = []
    report = gpu_steps.measure(dataclasses.replace(options, save=saved.append))
    check(report)
    assert measured(report) == {train_step.BASELINE, "EvoNorm-S0"}
    assert [len([r for r in early.results if r.seconds]) for early in saved][:3] == [1, 2, 2]


def load_config(file):
    return parse_config(str(ROOT / file), [])


@pytest.mark.slow
def test_gpu_transfer(options):
    report = gpu_transfer.measure(dataclasses.replace(options, load_config=load_config))
    check(report)
    for network in gpu_transfer.BATCH_SIZES:
        assert measured(report, network) == {gpu_transfer.BASELINE, "EvoNorm-S0"}
        s0 = report.find(network, network, "EvoNorm-S0").figures
        assert s0["images per second"] > 0
        assert s0["all memory, MB"] > 0


def test_gpu_transfer_leaves_out_what_the_time_does_not_suffice_for():
    options = suite.Options(quick=True, minutes=0.0, load_config=load_config)
    report = gpu_transfer.measure(options)
    assert [result.note for result in report.results] == ["not run: 0 s were over"] * 4


@pytest.mark.parametrize(
    ("network", "model", "images"),
    [
        ("coco_maskrcnn_r50_fpn", "maskrcnn_r50_fpn", 4),
        ("biggan_deep_imagenet128", "biggan_deep_128", 128),  # two updates of the discriminator
    ],
)
def test_gpu_transfer_trains_the_full_networks(network, model, images):
    options = suite.Options(load_config=load_config)
    config = gpu_transfer.transfer_config(network, "EvoNorm-B0", options)
    assert (config.model.name, config.dtype) == (model, "bfloat16")
    assert create_experiment(config, jax.devices()[:1]).images_per_step == images


def test_gpu_stages_in_processes_of_their_own(lines, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STAGES", (gpu.Stage("layers", 1.0),))
    command = [sys.executable, "-c", "print('measured')"]
    monkeypatch.setattr(gpu, "stage_command", lambda *arguments: command)
    report = suite.run_suite("gpu", suite.Options(quick=True, log=lines.append), tmp_path, "here")
    check_no_comparison(report)
    assert measured(report) == {"layers"}
    assert "layers: finished after" in "".join(lines)


def test_gpu_stages_that_fail_are_named_once_the_rest_is_written(options, tmp_path, monkeypatch):
    names = ("numbers", "layers", "steps", "cifar10")
    monkeypatch.setattr(gpu, "STAGES", tuple(gpu.Stage(name, 1.0) for name in names))
    ends = dict(
        zip(names, ("failed (exit code 1)", "finished", "cut short", "killed"), strict=True)
    )
    monkeypatch.setattr(gpu, "run_stage", lambda stage, *_: (1.0, ends[stage.name]))
    message = (
        r"end: numbers failed \(exit code 1\), cifar10 killed\. .* by --stages=numbers,cifar10\."
    )
    with pytest.raises(UserError, match=message):
        suite.run_suite("gpu", options, tmp_path, "here")
    assert len(list((tmp_path / "here").iterdir())) == 3
    text = (tmp_path / "here" / "gpu_quick.md").read_text()
    assert "- numbers: failed (exit code 1).\n- steps: cut short.\n- cifar10: killed.\n" in text


def test_gpu_stages_that_were_cut_short_are_no_failure(options, monkeypatch):
    monkeypatch.setattr(gpu, "run_stage", lambda *_: (1.0, "cut short"))
    report = gpu.measure(dataclasses.replace(options, stages=("layers",)))
    assert report.failure == ""
    assert report.notes[-1] == "layers: cut short."


SLEEPER = """
import pathlib, sys
from evonorm_jax.benchmarks import gpu, gpu_cifar10, suite

code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
sleep = lambda *_: [sys.executable, "-c", code]
gpu.stage_command = gpu_cifar10.sweep_command = sleep
options = suite.Options(quick=True, output=pathlib.Path(sys.argv[2]))
{"gpu": gpu, "gpu_cifar10": gpu_cifar10}[sys.argv[1]].measure(options)
"""


@pytest.mark.parametrize("name", ["gpu", "gpu_cifar10"])
def test_a_suite_that_is_stopped_leaves_nothing_running(name, tmp_path):
    command = [sys.executable, "-c", SLEEPER, name, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        lines = iter(parent.stdout.readline, "")
        child = next(int(line) for line in lines if line.strip().isdigit())
        os.kill(child, 0)
        parent.terminate()
        assert parent.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize(
    ("code", "grace", "outcome"),
    [
        ("raise SystemExit(3)", 5, "failed (exit code 3)"),
        ("import time; time.sleep(60)", 5, "cut short"),
        (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
            0.2,
            "killed",
        ),
    ],
)
def test_gpu_stages_end_within_their_limit(options, monkeypatch, code, grace, outcome):
    monkeypatch.setattr(gpu, "GRACE", grace)
    monkeypatch.setattr(gpu, "stage_command", lambda *_: [sys.executable, "-c", code])
    seconds, found = gpu.run_stage(gpu.STAGES[0], options, limit=1.0 + grace)
    assert found == outcome
    assert seconds < 30


def test_the_command_of_a_gpu_stage(tmp_path):
    options = suite.Options(data="cifar10.npz", output=tmp_path / "nvidia-h100")
    *_, cifar10 = gpu.STAGES
    command = gpu.stage_command(cifar10, options, limit=80)
    assert command[1:5] == ["-m", "experiments.benchmark", "--suite", "gpu_cifar10"]
    assert command[5:9] == ["--output", str(tmp_path), "--hardware", "nvidia-h100"]
    assert command[9:] == ["--minutes", "1.000", "--data", "cifar10.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (suite.Options(stages=("nombers",)), "'nombers' is unknown, take any of numbers,layers"),
        (suite.Options(stages=("layers",), minutes=0.0), "--minutes=0.0 must be positive"),
        (suite.Options(), "--data=data/cifar10.npz"),
    ],
)
def test_gpu_refuses_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        gpu.measure(options)


def test_gpu_cifar10_reads_what_the_runs_have_reached(tmp_path):
    folder = tmp_path / "sweep"
    rows = [
        {"step": 0, "time": 10.0, "train/loss": 2.0},
        {"step": 5, "time": 12.0, "eval/loss": 1.5, "eval/top1": 0.25},
        {"step": 9, "time": 13.0, "train/loss": 1.0},
    ]
    for name in ("done/seed=0", "cut/seed=0", "begun/seed=0"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        text = "\n".join(map(json.dumps, rows)) + '\n{"step": 1'  # a row that is being written
        (folder / name / "metrics.jsonl").write_text(text if "begun" not in name else "")
    (folder / "done/seed=0/summary.json").write_text("{}")
    cut, done = gpu_cifar10.sweep_results("sweep", folder)
    assert cut.contender == "cut/seed=0, cut off at step 5"
    assert done.contender == "done/seed=0"
    seconds = {"seconds from the first row to the last": 3.0}
    figures = {gpu_cifar10.ACCURACY: 25.0, "test loss": 1.5, "at step": 5, "finished": 1}
    assert done.figures == figures | seconds
    assert cut.figures == figures | seconds | {"finished": 0}


def test_gpu_cifar10_needs_real_images(monkeypatch):
    monkeypatch.setattr(gpu_cifar10, "require_gpu", lambda options: None)
    with pytest.raises(UserError, match=r"name CIFAR-10 as \.npz.* how to make the file\)\."):
        gpu_cifar10.measure(suite.Options())


@pytest.mark.parametrize("code", [0, 3])
def test_gpu_cifar10_tells_which_sweeps_failed(options, monkeypatch, tmp_path, code):
    command = [sys.executable, "-c", f"raise SystemExit({code})"]
    monkeypatch.setattr(gpu_cifar10, "sweep_command", lambda *_: command)
    report = gpu_cifar10.measure(dataclasses.replace(options, output=tmp_path))
    expected = f"output above says: {', '.join(gpu_cifar10.QUICK_SWEEPS)}."
    assert report.failure.endswith(expected) if code else report.failure == ""


@pytest.mark.slow
def test_gpu_cifar10_on_whatever_there_is(options, tmp_path):
    options = dataclasses.replace(options, output=tmp_path)
    report = gpu_cifar10.measure(options)
    assert len(report.results) == 4
    assert all(result.figures["finished"] for result in report.results)


def test_an_unknown_suite_is_refused(options, tmp_path):
    with pytest.raises(UserError, match="take one of layers, train_step"):
        suite.run_suite("laiers", options, tmp_path)
