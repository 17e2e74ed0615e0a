"""BigGAN-deep on CIFAR-10: EvoNorm-B0 in the generator.

    python -m experiments.train --config configs/biggan_deep_cifar10_evonorm_b0.py

Hardware: one GPU.
Paper: gives no numbers for this data set.
"""

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_cifar10("evonorm_b0")
    return synthesis_recipes.parse_arg(config, arg)
