"""Accuracy against images per worker on CIFAR-10: ResNet-20, 8 workers, 30 epochs.

    python -m experiments.sweep --config configs/sweeps/cifar10_batch_size.py \
        --workdir runs/cifar10_batch_size

Hardware: one GPU, or several with one run on each.
Paper: gives no numbers for this network on CIFAR-10.

The recipe is that of the CIFAR-10 configs with 30 epochs instead of 200, cosine decay and one epoch
of warm-up. `:folder` and `:npz` read the images from there, as for these configs.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.batch_size_sweep import batch_size_sweep


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.cifar10("cifar_resnet20", "bn_relu")
    config.num_workers = 8
    config.num_epochs = 30.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    config.tensorboard = False  # importing TensorFlow takes longer than an epoch of training
    return recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=("bn_relu", "gn_relu", "gn_swish", "frn", "evonorm_b0", "evonorm_s0"),
        images_per_worker=(64, 32, 16, 8, 4, 2),
        num_seeds=2,
        group_size=8,
        arg=arg,
    )
