"""BigGAN-deep on the built-in 8x8 digits, offline: PixelNorm-ReLU in the generator.

    python -m experiments.train --config configs/biggan_deep_digits_pixel_norm_relu.py

Hardware: two CPU cores, minutes, no TensorFlow, no download.
Paper: gives no numbers for this data set.
"""

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_digits("pixel_norm_relu")
    return synthesis_recipes.parse_arg(config, arg)
