"""Average precision by layer: a small Mask R-CNN on the built-in nuclei, four layers, three seeds.

    python -m experiments.sweep --config configs/sweeps/nuclei256_maskrcnn_r18_fpn_layers.py \
        --workdir runs/nuclei256_maskrcnn_r18_fpn_layers

Hardware: two CPU cores, 20 minutes a run on one of them.
Paper: gives no numbers for this data set; its Table 4 compares these layers on COCO.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import detection_recipes, recipes


def get_config(arg: str = "") -> ConfigDict:
    config = detection_recipes.nuclei("bn_relu")
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return detection_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    for seed in range(1 if arg == "smoke" else 3):
        for norm_act in ("bn_relu", "evonorm_s0", "gn_relu", "evonorm_b0"):
            yield {**recipes.layer_overrides(norm_act, group_size=8), "seed": seed}
