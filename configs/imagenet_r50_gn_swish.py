"""GN-Swish in a pre-activation ResNet-50 on ImageNet: 8 x 128 images, 90 epochs.

    python -m experiments.train --config configs/imagenet_r50_gn_swish.py

Hardware: eight accelerators (a TPU v3-8, a host with eight GPUs); fewer hold several workers each.
Paper: 77.2 % top-1 (arXiv v1, Table 3, 128 images per worker).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_resnet("resnet50", "gn_swish"), arg)
