"""Every config trains: its `:smoke` form, from beginning to end (most of them with `-m slow`)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from evonorm_jax.metrics import metrics_of_run
from evonorm_jax.run_files import METADATA_FILE, read_json
from evonorm_jax.training import train_and_evaluate
from experiments import launch

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = sorted(
    path.stem
    for path in (launch.ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "arguments")
    and not path.stem.endswith("recipes")
    and not path.stem.startswith("biggan_deep_")  # test_synthesis_configs.py
)
# The other layers of a network share all with these but the layer, which has tests of its own.
USUAL_LAYERS = ("bn_relu", "evonorm_b0", "evonorm_s0")


def is_quick(name: str) -> bool:
    """Detectors compile for half a minute each; tests/training/tasks trains one of them."""
    return name.endswith(USUAL_LAYERS) and "maskrcnn" not in name


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if is_quick(name) else pytest.mark.slow) for name in CONFIGS],
)
def test_smoke(name: str, tmp_path: Path) -> None:
    if "maskrcnn" in name:
        pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    config = launch.parse_config(f"{launch.ROOT}/configs/{name}.py:smoke", [])
    # Networks of different depths are the same in small; CONFIGS of one layer share a compilation.
    summary = train_and_evaluate(config, tmp_path / "run", devices=jax.devices()[:1])
    assert summary["steps"] == 8
    assert summary["eval/examples"] == 20
    metrics = metrics_of_run(read_json(tmp_path / "run" / METADATA_FILE), config.to_dict())
    assert np.isfinite(summary[metrics.main_metric])
