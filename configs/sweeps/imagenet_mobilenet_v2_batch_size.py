"""Accuracy against images per worker on ImageNet: MobileNetV2, 32 workers, 350 epochs.

    python -m experiments.sweep --config configs/sweeps/imagenet_mobilenet_v2_batch_size.py \
        --workdir runs/imagenet_mobilenet_v2_batch_size --print

Hardware: 32 accelerators for each run (a TPU v3-32, four hosts of eight GPUs); fewer hold several
workers each. `--print` lists one command per run, for a queue.
Paper: arXiv v1, Table 3, right half, one line per layer; one run each, as far as it says.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.batch_size_sweep import BATCH_SIZE_LAYERS, batch_size_sweep


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(_recipe("evonorm_s0"), arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return batch_size_sweep(
        norm_acts=BATCH_SIZE_LAYERS,
        images_per_worker=(128, 64, 32, 16, 8, 4),
        num_seeds=3,
        fields={layer: _recipe(layer).model.norm_act_fields for layer in BATCH_SIZE_LAYERS},
        arg=arg,
    )


def _recipe(norm_act: str) -> ConfigDict:
    return recipes.imagenet_mobile("mobilenet_v2", norm_act)
