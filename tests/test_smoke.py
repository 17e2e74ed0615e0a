"""Every config trains: its `:smoke` form, from beginning to end (most of them with `-m slow`)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from evonorm_jax.metrics import metrics_of_run
from evonorm_jax.run_files import METADATA_FILE, read_json
from evonorm_jax.training import train_and_evaluate
from experiments import launch
from experiments.config_file import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "arguments")
    and not path.stem.endswith("recipes")
    and not path.stem.startswith("biggan_deep_")  # test_synthesis_configs.py
)
# One config of every network: the others share all with it but the layer, which has tests of its
# own. Networks of different depths are the same in small: with one layer they share a compilation.
QUICK = (
    "cifar10_resnet20_evonorm_b0",
    "cifar10_resnet56_evonorm_b0",
    "digits_resnet_evonorm_s0",
    "imagenet_efficientnet_b0_evonorm_b0",
    "imagenet_efficientnet_b5_evonorm_b0",
    "imagenet_mnasnet_b1_evonorm_b0",
    "imagenet_mobilenet_v2_evonorm_s0",
    "imagenet_r101_bn_relu",
    "imagenet_r50_bn_relu",
)


def test_no_network_trains_with_the_slow_tests_alone() -> None:
    """But for detectors, which compile for half a minute; tests/training/tasks trains one."""
    classifiers = [name for name in CONFIGS if "maskrcnn" not in name and name != "finetune_folder"]
    networks = {name.removesuffix("_bn_relu") for name in classifiers if name.endswith("_bn_relu")}
    assert all(name.startswith(tuple(networks)) for name in classifiers)
    assert len(networks) == len(QUICK)
    for network in networks:
        assert sum(name.startswith(f"{network}_") for name in QUICK) == 1, network


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS],
)
def test_smoke(name: str, tmp_path: Path) -> None:
    if "maskrcnn" in name:
        pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    config = launch.parse_config(f"{ROOT}/configs/{name}.py:smoke", [])
    summary = train_and_evaluate(config, tmp_path / "run", devices=jax.devices()[:1])
    assert summary["steps"] == 8
    assert summary["eval/examples"] == 20
    metrics = metrics_of_run(read_json(tmp_path / "run" / METADATA_FILE), config.to_dict())
    assert np.isfinite(summary[metrics.main_metric])
