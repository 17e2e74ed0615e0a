import importlib.util

import pytest
from jax.experimental import topologies

from evonorm_jax.benchmarks import compile_only
from evonorm_jax.benchmarks.compile_only import TARGETS, choose_targets, find_devices
from evonorm_jax.benchmarks.machine import slug
from evonorm_jax.errors import UserError


@pytest.fixture
def install(monkeypatch):
    """Makes it look as if those modules, and no others, were installed."""

    def pretend(*modules):
        find_spec = lambda name: object() if name in modules else None  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return pretend


def test_names_are_folders_and_say_how_many():
    assert {name: target.num_devices for name, target in TARGETS.items()} == {
        "h100": 1,
        "8x-h100": 8,
        "tpu-v5e-2x2": 4,
        "tpu-v5p-2x2x1": 4,
        "tpu-v6e-2x2": 4,
        "tpu-v5e-4x8": 32,
        "tpu-v5p-2x4x4": 32,
        "tpu-v6e-4x8": 32,
        "tpu-v5e-16x16": 256,
        "tpu-v5p-4x8x8": 256,
        "tpu-v6e-16x16": 256,
    }
    assert all(slug(name) == name for name in TARGETS)


def test_targets_by_pattern():
    names = [target.name for target in choose_targets(["*h100", "tpu-v6e-2x2"])]
    assert names == ["h100", "8x-h100", "tpu-v6e-2x2"]
    with pytest.raises(UserError, match=r"--targets: 'b200' matches none of h100, 8x-h100, tpu"):
        choose_targets(["h100", "b200"])


def test_without_a_pattern_those_that_can_be_compiled_for(install):
    install("jax_cuda12_plugin")
    assert [target.name for target in choose_targets()] == ["h100", "8x-h100"]
    install("libtpu")
    assert {target.platform for target in choose_targets()} == {"tpu"}


def test_without_any_compiler(install):
    install()
    with pytest.raises(UserError, match=r'jax_cuda13_plugin or libtpu .*pip install -e "\.\[train'):
        choose_targets()


@pytest.mark.parametrize(
    ("target", "package"), [("h100", "jax_cuda13_plugin"), ("tpu-v5e-2x2", "libtpu")]
)
def test_without_the_compiler_of_a_target(install, target, package):
    install()
    with pytest.raises(UserError, match=rf"{package} is not installed, .*\[train,aot\]"):
        find_devices(TARGETS[target])


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, TypeError])
def test_a_jax_that_cannot_be_asked(install, monkeypatch, error):
    def refuse(*_, **__):
        raise error("no such topology")

    install("jax_cuda13_plugin", "libtpu")
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    monkeypatch.setattr(compile_only, "_WITHOUT_TPU", {})
    for name in ("8x-h100", "tpu-v5e-4x8"):
        with pytest.raises(UserError, match=rf"no compile-only devices for {name} .*no such"):
            find_devices(TARGETS[name])


def test_how_jax_is_asked(install, monkeypatch):
    asked = []

    def topology(*arguments, **keywords):
        asked.append((arguments, keywords.get("topology")))
        return topologies.TopologyDescription(["a device"])

    install("jax_cuda13_plugin", "libtpu")
    monkeypatch.setattr(topologies, "get_topology_desc", topology)
    monkeypatch.setattr(compile_only, "_WITHOUT_TPU", {})
    for name in ("8x-h100", "tpu-v5p-2x4x4"):
        assert find_devices(TARGETS[name]) == ["a device"]
    assert asked == [(("", "cuda"), "1x1x8"), (("v5p:2x4x4", "tpu"), None)]
