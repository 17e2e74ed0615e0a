"""Accuracy against images per worker on CIFAR-10 of half the resolution: ResNet-8, 8 workers.

    python -m experiments.prepare_data --from_folder=data/cifar10 --image_size=16 \
        --npz=data/cifar10_16.npz
    python -m experiments.sweep --config configs/sweeps/cifar10_resnet8_batch_size.py \
        --workdir runs/cifar10_resnet8_batch_size --config.dataset.path=data/cifar10_16.npz

Hardware: one CPU core, five hours.
Paper: gives no numbers for this network on CIFAR-10.

The protocol is that of the paper's proxy task for the S layers at half the resolution: random crops
of 12 x 12 in training, whole images of 16 x 16 in evaluation, learning rate 0.1 for 128 images
without warm-up, cosine decay, Nesterov momentum 0.9, weight decay 1e-4. The largest size, 16 images
a worker, is its batch of 128 and makes its 5,000 updates; the smaller sizes have the same epochs.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.batch_size_sweep import batch_size_sweep

NUM_EPOCHS = 12.82  # 5,000 updates of 128 of 50,000 images


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.parse_arg(recipes.cifar10("cifar_resnet20", "bn_relu"), arg or "npz")
    config.model.fields.depth = 8
    if "smoke" not in arg.split(","):
        config.dataset.image_size = 16  # pixels
        config.dataset.train_crop_size = 12
        config.dataset.pad = 0
        config.dataset.flip = False
        config.num_epochs = NUM_EPOCHS
        config.num_workers = 8
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0.0
    config.eval_every_epochs = 3.0
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    config.tensorboard = False  # importing TensorFlow takes longer than an epoch of training
    return config


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=("bn_relu", "gn_relu", "gn_swish", "evonorm_b0", "evonorm_s0"),
        images_per_worker=(16, 8, 4, 2),
        num_seeds=3,
        group_size=8,
        arg=arg,
    )
