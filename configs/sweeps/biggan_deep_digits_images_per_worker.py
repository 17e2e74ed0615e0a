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

from configs import synthesis_recipes
from configs.sweeps.batch_size_sweep import split_batch_sweep

_BATCH_SIZE = 64


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_digits("bn_relu")
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return synthesis_recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    small = arg == "smoke"
    return split_batch_sweep(
        norm_acts=("bn_relu", "evonorm_s0"),
        images_per_worker=(8, 2) if small else (64, 8, 2),
        batch_size=8 if small else _BATCH_SIZE,
        num_seeds=1 if small else 3,
        group_size=8,
    )
