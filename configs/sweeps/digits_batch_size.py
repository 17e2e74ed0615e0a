"""Accuracy against images per worker on the built-in digits: ResNet-8, one worker, 10 epochs.

    python -m experiments.sweep --config configs/sweeps/digits_batch_size.py --workdir runs/digits

Hardware: two CPU cores, no TensorFlow, no download.
Paper: gives no numbers for this data set.

The recipe is that of the digits configs, but half as long and at the learning rate per 256 images
that the paper's ResNets have. Fully trained, digits are so easy that BN-ReLU reaches 98 % from two
images as well; this much training is the least that brings every layer above 95 % at 64 images.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.digits("bn_relu")
    config.num_workers = 1
    config.num_epochs = 10.0
    config.schedule.warmup_epochs = 1.0
    config.optimizer.learning_rate_per_256 = 0.1
    config.keep_checkpoints = 1
    return recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return recipes.batch_size_sweep(
        norm_acts=("bn_relu", "gn_relu", "frn", "evonorm_b0", "evonorm_s0"),
        images_per_worker=(64, 32, 16, 8, 4, 2),
        num_seeds=3,
        group_size=8,
        arg=arg,
    )
