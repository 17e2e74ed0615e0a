"""EvoNorm-B0 in a pre-activation ResNet-56 on CIFAR-10: batch 128, 200 epochs.

    python -m experiments.train --config configs/cifar10_resnet56_evonorm_b0.py

Hardware: one GPU or one TPU core.
Paper: gives no number for this network on CIFAR-10.
"""

from ml_collections import ConfigDict

from configs import recipes


def get_config(arg: str = "") -> ConfigDict:
    return recipes.parse_arg(recipes.cifar10("cifar_resnet56", "evonorm_b0"), arg)
