"""Accuracy against images per worker on the built-in digits: ResNet-8, one worker, 10 epochs.

    python -m experiments.sweep --config configs/sweeps/digits_batch_size.py \
        --workdir runs/digits_batch_size

Hardware: two CPU cores, no TensorFlow, no download.
Paper: gives no numbers for this data set.

The recipe is that of the digits configs at half their learning rate (0.1 per 256 images, as in the
authors' ResNet code) and half their epochs. It was chosen because it shows the effect: digits are
so easy that with those configs unchanged BN-ReLU reaches 98.6 % from two images per worker as well,
and falls, to 28.1 %, from a single image only (one seed each).
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.batch_size_sweep import batch_size_sweep


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.digits("bn_relu")
    config.num_workers = 1
    config.num_epochs = 10.0
    config.schedule.warmup_epochs = 1.0
    config.optimizer.learning_rate_per_256 = 0.1
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    return recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=("bn_relu", "gn_relu", "frn", "evonorm_b0", "evonorm_s0"),
        images_per_worker=(64, 32, 16, 8, 4, 2),
        num_seeds=3,
        group_size=8,
        arg=arg,
    )
