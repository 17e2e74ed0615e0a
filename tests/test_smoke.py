"""Every config trains: its `:smoke` form, from beginning to end (most of them with `-m slow`)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from evonorm_jax.training import train_and_evaluate
from experiments import launch

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIGS = sorted(
    path.stem
    for path in (launch.ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "recipes", "synthesis_recipes")
    and not path.stem.startswith("biggan_deep_")  # test_synthesis_configs.py
)
# The other layers of a network share all with these but the layer, which has tests of its own.
USUAL_LAYERS = ("bn_relu", "evonorm_b0", "evonorm_s0")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.endswith(USUAL_LAYERS) else pytest.mark.slow)
        for name in CONFIGS
    ],
)
def test_smoke(name: str, tmp_path: Path) -> None:
    config = launch.parse_config(f"{launch.ROOT}/configs/{name}.py:smoke", [])
    # Networks of different depths are the same in small; CONFIGS of one layer share a compilation.
    summary = train_and_evaluate(config, tmp_path / "run", devices=jax.devices()[:1])
    assert summary["steps"] == 8
    assert summary["eval/examples"] == 20
    assert np.isfinite(summary["eval/loss"])
