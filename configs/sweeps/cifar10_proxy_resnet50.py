"""The paper's proxy task on a ResNet-50 for CIFAR.

    python -m experiments.sweep --config configs/sweeps/cifar10_proxy_resnet50.py \
        --workdir runs/cifar10_proxy_resnet50

Hardware: one GPU.
Paper: ResNet-50 on CIFAR-10 is one of the three networks of its search. It gives no numbers for
known layers there, and does not say how large its network is.

As the S series was searched, 5,000 steps with a cosine: BN-ReLU and EvoNorm-S0. As the B series
was, 2,000 steps at a constant rate: BN-ReLU and EvoNorm-B0. `proxy_task.py` has the rest.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs.sweeps.proxy_task import proxy_config, series_sweep


def get_config(arg: str = "") -> ConfigDict:
    return proxy_config("resnet50_cifar", arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    return series_sweep(arg)
