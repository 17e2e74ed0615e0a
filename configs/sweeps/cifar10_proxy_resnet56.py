"""The paper's proxy task on ResNet-56, long and short: does EvoNorm-S0 lag behind BN-ReLU?

    python -m experiments.sweep --config configs/sweeps/cifar10_proxy_resnet56.py \
        --workdir runs/cifar10_proxy_resnet56

Hardware: one GPU.
Paper: the search trains its candidates so (section 4 and the reply to its reviewers), but on
narrow ResNet-50, MobileNetV2 and EfficientNet-B0; it gives no numbers for this network.

24 x 24 random crops in training, whole images of 32 x 32 in evaluation; batch 128, learning rate
0.1 without warm-up, cosine decay, Nesterov momentum 0.9, weight decay 1e-4; 5,000 steps, and the
same in 400.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes

NORM_ACTS = ("bn_relu", "evonorm_s0")
NUM_STEPS = (5000, 400)
NUM_SEEDS = 3


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.cifar10("cifar_resnet56", "bn_relu")
    config.dataset.train_crop_size = 24  # pixels
    config.dataset.pad = 0
    config.dataset.flip = False
    config.num_epochs = 0.0
    config.num_steps = NUM_STEPS[0]
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0.0
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    config.tensorboard = False
    return recipes.parse_arg(config, arg)


def sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    seeds, lengths = (1, (8, 4)) if "smoke" in arg.split(",") else (NUM_SEEDS, NUM_STEPS)
    for seed in range(seeds):
        for num_steps in lengths:
            for norm_act in NORM_ACTS:
                layer = recipes.layer_overrides(norm_act, group_size=8)
                yield layer | {"num_steps": num_steps, "seed": seed}
