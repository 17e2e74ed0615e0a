"""BN-SiLU in EfficientNet-B5 on ImageNet: 16 x 128 images, 350 epochs.

    python -m experiments.train --config configs/imagenet_efficientnet_b5_bn_silu.py

Hardware: 16 accelerators (a TPU v3-16, two hosts with eight GPUs); fewer hold several workers each.
Paper: 83.4 % top-1 (arXiv v1, Table 2, BN-Swish-1).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_mobile("efficientnet_b5", "bn_silu"), arg)
