"""BN-ReLU in a ResNet-8 on the built-in 8x8 digits, offline.

    python -m experiments.train --config configs/digits_resnet_bn_relu.py

Hardware: two CPU cores, no TensorFlow, no download.
Paper: gives no number for this data set.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.digits("bn_relu"), arg)
