"""Groups of EvoNorm-S0 in BigGAN-deep on ImageNet at 128 pixels: 8, 16 or 32.

    python -m experiments.sweep --config configs/sweeps/biggan_deep_imagenet128_groups.py \
        --workdir runs/biggan_deep_imagenet128_groups --print

Hardware: a TPU v3-128 for one to two days for each run, or eight GPUs for weeks. `--print` lists
one command per run, for a queue.
Paper: does not say which numbers of groups it tried. Not run here.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_imagenet128("evonorm_s0")
    return synthesis_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    for seed in range(1 if arg == "smoke" else 3):
        for groups in (8, 16, 32):
            yield {"model.norm_act_fields.num_groups": groups, "seed": seed}
