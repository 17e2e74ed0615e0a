"""BigGAN-deep on ImageNet at 128 pixels: LN-ReLU in the generator.

    python -m experiments.train --config configs/biggan_deep_imagenet128_ln_relu.py

Hardware: a TPU v3-128 for one to two days, or eight GPUs for weeks.
Paper: Table 5: Inception Score and FID of this layer. Not run here, and StudioGAN
(README) reproduces most GANs but BigGAN-deep: do not expect the table cheaply.
"""

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_imagenet128("ln_relu")
    return synthesis_recipes.parse_arg(config, arg)
