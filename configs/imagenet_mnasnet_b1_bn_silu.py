"""BN-SiLU in MnasNet-B1 on ImageNet: 8 x 128 images, 350 epochs.

    python -m experiments.train --config configs/imagenet_mnasnet_b1_bn_silu.py

Hardware: eight accelerators (a TPU v3-8, a host with eight GPUs); fewer hold several workers each.
Paper: 75.1 % top-1 (arXiv v1, Table 2, BN-Swish-1).
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.imagenet_mobile("mnasnet_b1", "bn_silu"), arg)
