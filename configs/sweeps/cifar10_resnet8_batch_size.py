"""Accuracy against images per worker on CIFAR-10, on two CPU cores: ResNet-8, 8 workers, 2 epochs.

    python -m experiments.sweep --config configs/sweeps/cifar10_resnet8_batch_size.py \
        --workdir runs/cifar10_resnet8_batch_size

Hardware: two CPU cores, about an hour and a half. `:npz` reads the images from a file that
`experiments.prepare_data` writes, with no need of TensorFlow.
Paper: gives no numbers for this network on CIFAR-10.

The recipe of `cifar10_batch_size.py` with the smallest of its networks, 2 epochs of which half a
one is warm-up, three of its layers and four of its sizes.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps import cifar10_batch_size
from configs.sweeps.batch_size_sweep import batch_size_sweep


def get_config(arg: str = "") -> ConfigDict:
    config = cifar10_batch_size.get_config()
    config.model.fields.depth = 8
    config.num_epochs = 2.0
    config.schedule.warmup_epochs = 0.5
    return recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=("bn_relu", "gn_swish", "evonorm_s0"),
        images_per_worker=(32, 8, 4, 2),
        num_seeds=2,
        group_size=8,
        arg=arg,
    )
