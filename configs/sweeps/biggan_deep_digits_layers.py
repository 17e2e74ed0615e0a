"""Samples of digits by layer: BigGAN-deep with seven layers in its generator, three seeds.

    python -m experiments.sweep --config configs/sweeps/biggan_deep_digits_layers.py \
        --workdir runs/biggan_deep_digits_layers

Hardware: two CPU cores, minutes a run.
Paper: gives no numbers for this data set; its Table 5 compares six of these layers on ImageNet.

GN-Swish, the seventh, shows how much of what EvoNorm-S0 does comes from its smooth activation.

All layers have the one recipe of `biggan_deep_digits`, which was tuned for none of them. After its
3,000 steps the distances still fall. So the table says which layer is further by then, not which
one ends better, and says nothing about other data.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes, synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_digits("bn_relu")
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return synthesis_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    for seed in range(1 if arg == "smoke" else 3):
        for norm_act in (*synthesis_recipes.LAYERS, "gn_swish"):
            yield {**recipes.layer_overrides(norm_act, group_size=8), "seed": seed}
