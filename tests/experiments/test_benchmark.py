"""The launcher from end to end; what the suites measure is tested in tests/benchmarks."""

import json
from collections.abc import Iterator

import jax
import pytest

from evonorm_jax.benchmarks import suite, train_step
from experiments import benchmark
from tests.experiments.command_line import run


def test_a_suite_from_the_command_line(tmp_path):
    done = run("benchmark", "--suite=train_step", "--quick", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"train_step_quick.{ending}" for ending in ("json", "md", "png")]
    assert "EvoNorm-S0 / BN-ReLU, Flax" in done.stdout
    data = json.loads((folder / "train_step_quick.json").read_text())
    environment = data["environment"]
    assert environment["hardware"] == folder.name
    assert environment["command"][1:4] == ["-m", "experiments.benchmark", "--suite=train_step"]
    assert environment["variables"]["MALLOC_TOP_PAD_"]
    (workload,) = train_step.QUICK_WORKLOADS
    assert tuple(result["contender"] for result in data["results"]) == workload.contenders
    for result in data["results"]:
        assert len(result["seconds"]) == 2
        assert min(result["seconds"]) > 0
        figures = result["figures"]
        assert 0 < figures["temporaries, MB"] < figures["all memory, MB"]
        assert {"images per second", "compile seconds"} < set(figures)


@pytest.fixture
def config_of_jax() -> Iterator[None]:
    """Undoes what the launcher sets for its process."""
    names = ("jax_enable_compilation_cache", "jax_platforms")
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("config_of_jax")
def test_what_cannot_be_measured_here_is_one_message(tmp_path, refusal):
    said = refusal(benchmark.main, "--suite=gpu_layers", f"--output={tmp_path}")
    assert said.startswith("benchmark: This suite needs a GPU")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_the_suites_that_take_an_option_exist():
    named = {name for suites in benchmark.SUITES_OF_OPTIONS.values() for name in suites}
    assert named <= set(suite.SUITES)
    limited = benchmark.SUITES_OF_OPTIONS["minutes"]
    assert set(limited) == {name for name in suite.SUITES if name.startswith("gpu")}


@pytest.mark.usefixtures("config_of_jax")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite=aot", "--targets=b200"], "--targets: 'b200' matches none of h100, 8x-h100"),
        (["--suite=aot", "--hardware=here"], "--hardware names a machine that measures; the aot"),
        (["--suite=layers", "--targets=h100"], "--targets belongs to --suite aot, not to layers"),
        (["--suite=gpu", "--programs=*/bn-relu"], "--programs belongs to --suite aot, not to gpu:"),
        (["--suite=gpu_steps", "--stages=steps"], "--stages belongs to --suite gpu, not to gpu_st"),
        (["--suite=layers", "--minutes=0"], "--minutes belongs to --suite gpu or gpu_numbers or"),
        (["--suite=gpu_layers", "--data=x.npz"], "--data belongs to --suite input or search or"),
    ],
)
def test_options_of_other_suites_are_refused(tmp_path, refusal, options, message):
    said = refusal(benchmark.main, *options, f"--output={tmp_path}")
    assert said.startswith(f"benchmark: {message}")
    assert list(tmp_path.iterdir()) == []
