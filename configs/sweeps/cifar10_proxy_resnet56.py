"""The paper's proxy task on ResNet-56, long and short: does EvoNorm-S0 lag behind BN-ReLU?

    python -m experiments.sweep --config configs/sweeps/cifar10_proxy_resnet56.py \
        --workdir runs/cifar10_proxy_resnet56

Hardware: one GPU.
Paper: the search trains its candidates so (section 4 and the reply to its reviewers), but on
narrow ResNet-50, MobileNetV2 and EfficientNet-B0; it gives no numbers for this network.

5,000 steps with a cosine, as the S series was searched, and the same in 400. `proxy_task.py` has
the rest.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes
from configs.sweeps.proxy_task import NUM_SEEDS, proxy_config

NORM_ACTS = ("bn_relu", "evonorm_s0")
NUM_STEPS = (5000, 400)


def get_config(arg: str = "") -> ConfigDict:
    return proxy_config("cifar_resnet56", arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    seeds, lengths = (1, (8, 4)) if "smoke" in arg.split(",") else (NUM_SEEDS, NUM_STEPS)
    for seed in range(seeds):
        for num_steps in lengths:
            for norm_act in NORM_ACTS:
                layer = recipes.layer_overrides(norm_act, group_size=8)
                yield layer | {"num_steps": num_steps, "seed": seed}
