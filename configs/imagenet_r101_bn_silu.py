"""BN-SiLU in a pre-activation ResNet-101 on ImageNet: 8 x 128 images, 90 epochs.

    python -m experiments.train --config configs/imagenet_r101_bn_silu.py

Hardware: eight accelerators (a TPU v3-8, a host with eight GPUs); fewer hold several workers each.
Paper: 78.7 % top-1 (arXiv v1, Table 2, BN-Swish-1).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_resnet("resnet101", "bn_silu"), arg)
