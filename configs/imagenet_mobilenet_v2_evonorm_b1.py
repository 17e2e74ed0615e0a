"""EvoNorm-B1 in MobileNetV2 on ImageNet: 32 x 128 images, 350 epochs.

    python -m experiments.train --config configs/imagenet_mobilenet_v2_evonorm_b1.py

Hardware: 32 accelerators (a TPU v3-32, four hosts of eight GPUs); fewer hold several workers each.
Paper: 74.5 % top-1 (arXiv v1, Table 2).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_mobile("mobilenet_v2", "evonorm_b1"), arg)
