"""BigGAN-deep on CIFAR-10: PixelNorm-ReLU in the generator.

    python -m experiments.train --config configs/biggan_deep_cifar10_pixel_norm_relu.py

Hardware: one GPU.
Paper: gives no numbers for this data set.
"""

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_cifar10("pixel_norm_relu")
    return synthesis_recipes.parse_arg(config, arg)
