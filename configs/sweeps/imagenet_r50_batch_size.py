"""Accuracy against images per worker on ImageNet: ResNet-50, 8 workers, 90 epochs.

    python -m experiments.sweep --config configs/sweeps/imagenet_r50_batch_size.py \
        --workdir runs/imagenet_r50_batch_size --print

Hardware: eight accelerators for each run (a TPU v3-8, a host with eight GPUs); fewer hold several
workers each. `--print` lists one command per run, for a queue.
Paper: arXiv v1, Table 3, left half, one line per layer; one run each, as far as it says.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.batch_size_sweep import BATCH_SIZE_LAYERS, batch_size_sweep


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_resnet("resnet50", "bn_relu"), arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=BATCH_SIZE_LAYERS,
        images_per_worker=(128, 64, 32, 16, 8, 4),
        num_seeds=3,
        arg=arg,
    )
