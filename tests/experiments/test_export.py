"""The network of a run as one file: run by jax alone, loaded again, started from, refused."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export

import evonorm_jax
from configs import synthesis_recipes
from evonorm_jax.errors import UserError
from evonorm_jax.gan.classifier_file import read_classifier
from evonorm_jax.interop.safetensors_file import read_metadata, read_safetensors, write_safetensors
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.run_directory import read_config
from experiments import export
from experiments.process import run_main


def run(monkeypatch, *arguments):
    """Returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    try:
        run_main(export.main)
    except SystemExit as error:
        return error.code
    return 0


PROGRAM = """
import sys
import jax, numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    program = export.deserialize(bytearray(file.read()))
images = np.load(sys.argv[2])
found = [program.call(images[:count])["probabilities"] for count in (3, 4)]
assert not {"flax", "evonorm_jax"} & sys.modules.keys()
np.save(sys.argv[3], np.concatenate(found))
"""


def test_a_program_runs_in_a_process_with_jax_alone(trained_run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "insects.jaxexport"
    assert run(monkeypatch, "--workdir", trained_run.workdir, "--output", file) == 0
    assert f"{file}: cifar_resnet20 of step 4, its moving averages" in capsys.readouterr().out
    about = json.loads((tmp_path / "insects.jaxexport.json").read_text())
    assert about["inputs"] == {"images": {"shape": ["batch", 8, 8, 3], "dtype": "uint8"}}
    assert about["outputs"]["logits"] == {"shape": ["batch", 3], "dtype": "float32"}
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["classes"]["class_names"] == ["ant", "bee", "cat"]

    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    arguments = [sys.executable, "-c", PROGRAM, file, tmp_path / "images.npy", tmp_path / "out.npy"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = evonorm_jax.load_run(trained_run.workdir).predict(images).probabilities
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, np.concatenate([expected[:3], expected]), rtol=1e-4)


def test_images_in_floating_point_for_one_platform(trained_run, tmp_path, monkeypatch):
    file = tmp_path / "insects.jaxexport"
    options = ("--platforms=cpu,cpu", "--input_dtype=float32")
    assert run(monkeypatch, "--workdir", trained_run.workdir, "--output", file, *options) == 0
    program = jax_export.deserialize(bytearray(file.read_bytes()))
    assert (program.platforms, program.in_avals[0].dtype) == (("cpu",), np.float32)
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    found = program.call(images)
    expected = evonorm_jax.load_run(trained_run.workdir).predict(images)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, rtol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), found["probabilities"], rtol=1e-5)


@pytest.fixture(scope="module")
def weights_file(trained_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "insects.safetensors"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "--workdir", trained_run.workdir, "--output", file) == 0
    return file


def test_weights_are_loaded_as_the_run_is(trained_run, weights_file):
    expected, found = map(evonorm_jax.load_run, (trained_run.workdir, weights_file))
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
    assert (found.step, found.class_names) == (expected.step, expected.class_names)
    assert found.preprocessing == expected.preprocessing
    assert found.config == expected.config
    names = read_safetensors(weights_file)
    assert "params/stage1_block1/conv1/kernel" in names
    assert "batch_stats/head_norm/var" in names


def test_the_newest_weights_can_be_had_too(trained_run, weights_file, tmp_path, monkeypatch):
    file = tmp_path / "newest.safetensors"
    arguments = ("--workdir", trained_run.workdir, "--output", file, "--newest_weights")
    assert run(monkeypatch, *arguments) == 0
    newest, averages = read_safetensors(file), read_safetensors(weights_file)
    assert newest.keys() == averages.keys()
    assert not np.array_equal(newest["params/head/kernel"], averages["params/head/kernel"])


def test_a_run_starts_from_weights(trained_run, weights_file):
    config = read_config(trained_run.workdir)
    config.init_from = str(weights_file)
    task = create_experiment(config, jax.devices()[:1]).task
    weights = task.initial_weights()
    assert weights.description.endswith("insects.safetensors at step 4, its moving averages.")
    expected = evonorm_jax.load_run(trained_run.workdir).variables
    jax.tree.map(np.testing.assert_array_equal, dict(weights.variables), expected)
    config.init_from_model = "resnet50"
    with pytest.raises(
        UserError, match=r"is a run, which knows its network: leave config\.init_fro"
    ):
        task.initial_weights()
    config.init_from_model, config.model.norm_act = "", "evonorm_s0"
    with pytest.raises(UserError, match="norm_act is 'evonorm_b0', that of the new run 'evonorm_s"):
        task.initial_weights()


@pytest.mark.hostile
@pytest.mark.usefixtures("diverged_averages")
def test_weights_that_are_not_finite_are_not_used(trained_run):
    with pytest.raises(UserError, match=r"averages: .* not finite .* the first is 'params/"):
        evonorm_jax.load_run(trained_run.workdir)
    assert evonorm_jax.load_run(trained_run.workdir, newest_weights=True).step


def test_files_that_cannot_be_loaded(weights_file, tmp_path):
    stranger = tmp_path / "stranger.safetensors"
    write_safetensors({"a": np.zeros(1)}, stranger)
    with pytest.raises(UserError, match="does not say which network it is of"):
        evonorm_jax.load_run(stranger)
    write_safetensors({"a": np.zeros(1)}, stranger, {"evonorm_jax": '{"step": 1}'})
    with pytest.raises(UserError, match="has damaged metadata"):
        evonorm_jax.load_run(stranger)
    about = json.loads(read_metadata(weights_file)["evonorm_jax"])
    for change in (
        {"step": "x"},
        {"step": -1},
        {"averaged": "x"},
        {"classes": [1]},
        {"config": [1]},
        {"config": None},
        {"config": {}},
        {"config": {**about["config"], "dataset": {}}},
        {"config": {**about["config"], "seed": -1}},
    ):
        text = json.dumps(about | change)
        write_safetensors({"a": np.zeros(1)}, stranger, {"evonorm_jax": text})
        with pytest.raises(UserError, match="has damaged metadata"):
            evonorm_jax.load_run(stranger)
    for names, text in ((["a"], "[" * 100_000), (["a", "a/b"], json.dumps(about))):
        tensors = {name: np.zeros(1) for name in names}
        write_safetensors(tensors, stranger, {"evonorm_jax": text})
        with pytest.raises(UserError, match="has damaged metadata"):
            evonorm_jax.load_run(stranger)
    stranger.write_text("no such file")
    with pytest.raises(UserError, match="is not a safetensors file, or a damaged one"):
        evonorm_jax.load_run(stranger)
    with pytest.raises(
        UserError, match=r"holds .* at step 4, its moving averages alone, not step 3"
    ):
        evonorm_jax.load_run(weights_file, step=3)
    with pytest.raises(UserError, match="averages alone, not the newest weights"):
        evonorm_jax.load_run(weights_file, newest_weights=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=onnx"], "--format=onnx is unknown: choose one of jax, safetensors, npz"),
        (["--output={there}"], "there.npz is there already: name another file, or add --overwri"),
        (["--output=no/net.npz"], "--output=no/net.npz: there is no folder no"),
        (
            ["--output=net.onnx"],
            "--output=net.onnx: no format has the ending '.onnx'. Take one of .jax",
        ),
        (["--output=net"], "no format has the ending ''"),
        (["--format="], "--format= is unknown"),
        (["--platforms="], "platforms='': choose some of"),
        (["--input_dtype="], "input_dtype='' is unknown"),
        (["--format=npz", "--platforms=cpu"], "--platforms is of the format jax, not of npz"),
        (["--platforms=abacus"], "platforms='abacus': choose some of cpu, cuda, tpu, rocm"),
        (["--input_dtype=int8"], "input_dtype='int8' is unknown: choose one of uint8, float32"),
        (["--step=3"], "No checkpoint of step 3"),
        (["--workdir=."], "is not a run directory"),
    ],
)
def test_mistakes_end_with_exit_code_2(
    trained_run, tmp_path, monkeypatch, capsys, arguments, message
):
    there = tmp_path / "there.npz"
    there.write_text("kept")
    given = [argument.format(there=there) for argument in arguments]
    common = ("--workdir", trained_run.workdir, "--output", tmp_path / "net.jaxexport")
    assert run(monkeypatch, *common, *given) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert there.read_text() == "kept"


def test_a_classifier_for_the_figures_of_generated_images(
    trained_run, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "classifier.npz"
    assert run(monkeypatch, "--workdir", trained_run.workdir, "--output", file) == 0
    assert "classifier.npz: cifar_resnet20 of step 4" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    features = read_classifier(file)(images)
    assert features.network.startswith("classifier classifier.npz ")
    expected = evonorm_jax.load_run(trained_run.workdir).predict(images).probabilities
    # The weights are rounded to float16.
    np.testing.assert_allclose(jax.nn.softmax(features.logits), expected, rtol=0.02)


def test_generators_have_weights_but_no_program(tmp_path):
    """What a run of any task saves, without training one."""
    from evonorm_jax.training.export import export_weights
    from evonorm_jax.training.saved_run import SavedRun

    config = synthesis_recipes.biggan_deep_digits("bn_relu")
    variables = {"params": {"generator": {"a": np.ones(2)}, "discriminator": {"b": np.zeros(3)}}}
    export_weights(SavedRun("run", 7, config, variables, False, None), tmp_path / "gan.safetensors")
    assert set(read_safetensors(tmp_path / "gan.safetensors")) == {
        "params/generator/a",
        "params/discriminator/b",
    }
    with pytest.raises(UserError, match="is a run of image synthesis, which draws images"):
        evonorm_jax.load_run(tmp_path / "gan.safetensors")
