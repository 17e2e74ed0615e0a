"""Average precision against images per worker: a small Mask R-CNN on the built-in nuclei.

    python -m experiments.sweep \
        --config configs/sweeps/nuclei256_maskrcnn_r18_fpn_images_per_worker.py \
        --workdir runs/nuclei256_maskrcnn_r18_fpn_images_per_worker

Hardware: two CPU cores, 20 minutes a run on one of them.
Paper: gives no numbers for this; detectors have one or two images on a device as a rule.

The batch stays at 4 images. Only the number of images whose statistics BatchNorm takes together
changes.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import detection_recipes
from configs.sweeps.batch_size_sweep import split_batch_sweep

_BATCH_SIZE = 4


def get_config(arg: str = "") -> ConfigDict:
    config = detection_recipes.nuclei("bn_relu")
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return detection_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    small = arg == "smoke"
    return split_batch_sweep(
        norm_acts=("bn_relu", "evonorm_s0"),
        images_per_worker=(4, 1) if small else (4, 1, 2),
        batch_size=_BATCH_SIZE,
        num_seeds=1 if small else 3,
        group_size=8,
    )
