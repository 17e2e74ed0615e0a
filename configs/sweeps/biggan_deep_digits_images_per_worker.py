"""Samples of digits against images per worker: BigGAN-deep, always 64 images a step, 3,000 steps.

    python -m experiments.sweep --config configs/sweeps/biggan_deep_digits_images_per_worker.py \
        --workdir runs/biggan_deep_digits_images_per_worker

Hardware: two CPU cores, minutes a run.
Paper: gives no numbers for this data set.

The batch stays at 64 images. Only the number of images whose statistics BatchNorm takes together
changes, from 64 on one worker to 2 on each of 32. Samples are drawn with standing statistics of
batches of that many images.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes, synthesis_recipes

_BATCH_SIZE = 64


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_digits("bn_relu")
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return synthesis_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    small = arg == "smoke"
    batch_size = 8 if small else _BATCH_SIZE
    for seed in range(1 if small else 3):
        for images in (8, 2) if small else (64, 8, 2):
            for norm_act in ("bn_relu", "evonorm_s0"):
                yield {
                    **recipes.layer_overrides(norm_act, group_size=8),
                    "num_workers": batch_size // images,
                    "images_per_worker": images,
                    "seed": seed,
                }
