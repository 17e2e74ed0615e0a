"""The aot suite, compiled for the CPU devices of the tests in place of accelerators."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.benchmarks import aot, aot_programs, suite
from evonorm_jax.benchmarks.aot_programs import (
    BASELINE,
    LAYERS,
    NETWORKS,
    PALLAS,
    PALLAS_SHORTCUT,
    SMALL_NETWORKS,
    choose_programs,
    find_programs,
    lower_step,
)
from evonorm_jax.benchmarks.compile_only import TARGETS
from evonorm_jax.benchmarks.hlo import parse_module
from evonorm_jax.benchmarks.hlo_traffic import find_kernels
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import norm_act

SHAPE = (2, 8, 8, 64)
LAYER = "layer_2x8x8x64"


@pytest.fixture
def lines():
    return []


@pytest.fixture
def options(lines):
    return suite.Options(quick=True, target="h100", log=lines.append)


@pytest.fixture
def tiny(monkeypatch):
    """Layers alone, tiny, for the CPU: seconds in place of minutes."""
    monkeypatch.setattr(aot, "find_devices", lambda target: jax.devices()[: target.num_devices])
    monkeypatch.setattr(aot_programs, "LAYER_SHAPES", (SHAPE,))
    monkeypatch.setattr(aot_programs, "BLOCKS", ())
    monkeypatch.setattr(aot_programs, "SMALL_NETWORKS", {})


def lines_with(lines, text):
    return [line for line in lines if text in line]


def test_programs_of_one_device_and_of_many():
    parts = find_programs(TARGETS["h100"], quick=True)
    assert {program.group for program in parts} == {"layers", "blocks", "training steps"}
    assert len({program.name for program in parts}) == len(parts)
    many = find_programs(TARGETS["8x-h100"], quick=True)
    assert {program.group for program in many} == {"training steps"}
    assert {program.case for program in many} == set(SMALL_NETWORKS)
    whole = find_programs(TARGETS["tpu-v5e-16x16"], quick=False)
    assert {program.case for program in whole} == set(NETWORKS)
    hand_written = {PALLAS, PALLAS_SHORTCUT}
    assert hand_written <= {program.contender for program in parts if program.group == "blocks"}
    on_tpus = {program.contender for program in whole}
    assert not hand_written & on_tpus  # they are kernels for GPUs
    resnet50 = [program.contender for program in whole if program.case == "resnet50"]
    assert resnet50 == [BASELINE, "BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"]


def test_programs_by_pattern():
    programs = find_programs(TARGETS["h100"], quick=False)
    chosen = choose_programs(programs, ["resnet50/evonorm-*", "*/bn-relu-flax"])
    assert [program.name for program in chosen] == [
        "resnet50/bn-relu-flax",
        "resnet50/evonorm-b0",
        "resnet50/evonorm-s0",
        "resnet50/evonorm-s0-pallas",
        "resnet50/evonorm-s0-pallas-with-shortcut",
        "resnet50_remat/bn-relu-flax",
        "mobilenet_v2/bn-relu-flax",
        "efficientnet_b0/bn-relu-flax",
    ]
    assert choose_programs(programs) == programs
    with pytest.raises(UserError, match=r"--programs: 'resnet18' matches none of resnet50/bn-relu"):
        choose_programs(programs, ["resnet50/*", "resnet18"])


def test_every_comparison_names_contenders():
    assert {name for pair in aot.COMPARISONS for name in pair} <= set(LAYERS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_the_layers_of_flax(name):
    network = NETWORKS[name]
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    model = create_model(network.model, 10, LAYERS[BASELINE], **network.fields)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert "batch_stats" in variables


def test_figures_of_layers(options, tiny, tmp_path):
    options = dataclasses.replace(options, programs=("*/bn-relu", "*/bn-relu-flax", "*/evonorm-s0"))
    report = suite.run_suite("aot", options, tmp_path)
    folder = tmp_path / "h100"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"aot_quick.{ending}" for ending in ("json", "md", "png")
    ]
    x_bytes = 2 * 8 * 8 * 64 * 2
    for name in (BASELINE, "BN-ReLU", "EvoNorm-S0"):
        figures = report.find("layers", LAYER, name).figures
        # x for y; x and dy for dx. Some kernels lose the scope that they were traced in.
        assert figures[aot.FORWARD] >= 2
        assert figures[aot.PASSES] >= figures[aot.FORWARD] + 3
        assert figures[aot.PASSES] <= 1e9 * figures[aot.TRAFFIC] / x_bytes
        # Arguments and results: x, dy, y and dx.
        assert figures["peak memory, GB"] * 1e9 > 4 * x_bytes
        assert figures[aot.PREDICTION] == pytest.approx(figures[aot.TRAFFIC] / 3.35, rel=1e-6)
        assert "all-reduces" not in figures
        assert 0 < figures["lowering seconds"] < figures["compile seconds"]
    assert report.find("layers", LAYER, BASELINE).figures["TFLOP"] == 0
    text = (folder / "aot_quick.md").read_text()
    assert aot.QUICK_NOTICE in text
    assert "It is a prediction; nothing was timed." in text
    assert "| BN-ReLU / BN-ReLU, Flax | " in text
    assert "median" not in text
    ratio = report.ratio("layers", LAYER, "BN-ReLU", BASELINE)
    ours, theirs = (report.find("layers", LAYER, n).figures for n in ("BN-ReLU", BASELINE))
    assert ratio.median == pytest.approx(ours[aot.TRAFFIC] / theirs[aot.TRAFFIC])


def test_a_run_that_was_cut_short_goes_on(options, tiny, lines, tmp_path, monkeypatch):
    compiled = []
    original = aot.compile_program

    def compile_two(program, *arguments):
        if len(compiled) == 2:
            raise KeyboardInterrupt
        compiled.append(program.name)
        return original(program, *arguments)

    monkeypatch.setattr(aot, "compile_program", compile_two)
    three = dataclasses.replace(options, programs=("*/bn-relu", "*/gn-relu", "*/evonorm-s0"))
    with pytest.raises(KeyboardInterrupt):
        suite.run_suite("aot", three, tmp_path)
    saved = json.loads((tmp_path / "h100" / "aot_quick.json").read_text())
    assert [result["contender"] for result in saved["results"]] == ["BN-ReLU", "GN-ReLU"]
    assert not (tmp_path / "h100" / "aot_quick.png").exists()  # drawn at the end

    monkeypatch.setattr(aot, "compile_program", original)
    lines.clear()
    report = suite.run_suite("aot", three, tmp_path)
    assert lines[0] == "h100: 1 of 7 programs are to be compiled, 2 are known"
    assert len(lines_with(lines, " passes of its layers")) == 1
    assert [r.contender for r in report.results] == ["BN-ReLU", "GN-ReLU", "EvoNorm-S0"]
    assert [dict(r.figures) for r in report.results[:2]] == [
        result["figures"] for result in saved["results"]
    ]
    assert (tmp_path / "h100" / "aot_quick.png").exists()


def test_the_cheaper_branch_counts_and_the_dearer_one_is_told():
    size = 1024

    def lower(devices):
        def sums_twice_if_large(x):
            return jax.lax.cond(x[0] > 16, lambda: jnp.cumsum(jnp.sort(x)), lambda: x)

        program = jax.jit(sums_twice_if_large).lower(jax.ShapeDtypeStruct((size,), jnp.float32))
        return aot_programs.Lowered(program, layer_bytes=4 * size)

    program = aot_programs.Program("layers", "branches", "BN-ReLU", lower)
    figures = aot.compile_program(program, TARGETS["tpu-v5e-2x2"], jax.devices()).figures
    # Each of the two reads and writes all of x.
    assert figures[aot.DEAREST] - figures[aot.TRAFFIC] >= 4 * 4 * size / 1e9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["environment"].update(code="0123"), "other code or versions"),
        (lambda data: data["environment"]["versions"].update(jax="0.9"), "other code or versions"),
        (lambda data: data.update(schema=0), "cannot be read"),
        (lambda data: data["results"][0].pop("figures"), "cannot be read"),
    ],
)
def test_results_of_other_code_are_not_kept(
    options, tiny, lines, tmp_path, monkeypatch, change, message
):
    result = aot.Result("layers", LAYER, "BN-ReLU", figures={aot.TRAFFIC: 1.0, aot.PASSES: 1.0})
    monkeypatch.setattr(aot, "compile_program", lambda *_: result)
    one = dataclasses.replace(options, programs=("*/bn-relu",))
    monkeypatch.setattr(aot, "_summary", lambda result: "compiled")
    suite.run_suite("aot", one, tmp_path)
    path = tmp_path / "h100" / "aot_quick.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    lines.clear()
    suite.run_suite("aot", one, tmp_path)
    assert message in lines[0]
    assert lines_with(lines, ": compiled")


def test_a_program_that_does_not_compile_is_a_line_of_the_report(
    options, tiny, tmp_path, monkeypatch
):
    monkeypatch.setitem(LAYERS, "EvoNorm-S0", norm_act("evonorm_s0", epsilon=-1.0))
    one = dataclasses.replace(options, programs=("*/evonorm-s0",))
    report = suite.run_suite("aot", one, tmp_path)
    (result,) = report.results
    assert result.note.startswith("does not compile: UserError: ")
    assert not result.figures
    assert result.note in (tmp_path / "h100" / "aot_quick.md").read_text()


def test_a_step_on_several_devices(quick_compilation, monkeypatch):
    monkeypatch.setattr(aot_programs, "BATCH", 2)
    network = dataclasses.replace(
        SMALL_NETWORKS["small_resnet"], fields={"stage_sizes": (1,), "num_filters": 8}
    )
    lowered = lower_step(network, LAYERS["EvoNorm-S0"], jax.devices()[:2])
    # Three layers of the block on 56 x 56 maps of 8 channels, the last one on 32; two images.
    assert lowered.layer_bytes == 2 * 56 * 56 * (8 + 8 + 8 + 32) * 2
    kernels = find_kernels(parse_module(lowered.program.compile().as_text()), "cpu")
    assert any(kernel.all_reduced for kernel in kernels)
    in_layers = [kernel for kernel in kernels if kernel.is_within(aot_programs.LAYER_SCOPE)]
    assert any(kernel.is_backward(aot_programs.LAYER_SCOPE) for kernel in in_layers)
    assert not all(kernel.is_backward(aot_programs.LAYER_SCOPE) for kernel in in_layers)


def test_an_unknown_target(options):
    with pytest.raises(UserError, match=r"needs a target, not None: one of h100, 8x-h100, tpu"):
        aot.measure(dataclasses.replace(options, target=None))
