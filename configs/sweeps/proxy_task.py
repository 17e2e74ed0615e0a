"""The task that the paper's search trains its candidates on, which several sweeps share.

24 x 24 random crops of CIFAR-10 in training, whole images of 32 x 32 in evaluation; batch 128,
learning rate 0.1 without warm-up, Nesterov momentum 0.9, weight decay 1e-4 (paper, section 3 and
the reply to its reviewers).
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import recipes

NUM_SEEDS = 3
#: By length, the S series first: its schedule, and the layers that are compared by it.
SERIES = {
    5_000: ("cosine", ("bn_relu", "evonorm_s0")),
    2_000: ("constant", ("bn_relu", "evonorm_b0")),
}


def proxy_config(model: str, arg: str) -> ConfigDict:
    """Returns the config of a network with BN-ReLU, of 5,000 steps with a cosine.

    Args:
      model: Name of the network.
      arg: Argument of the config, as `configs.recipes.parse_arg` takes it.
    """
    config = recipes.cifar10(model, "bn_relu")
    config.dataset.train_crop_size = 24  # pixels
    config.dataset.pad = 0
    config.dataset.flip = False
    config.num_epochs = 0.0
    config.num_steps = 5_000
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 0.0
    config.keep_checkpoints = 1
    config.keep_best_checkpoint = False
    config.tensorboard = False
    return recipes.parse_arg(config, arg)


def series_sweep(arg: str = "") -> Iterator[dict[str, Any]]:
    """Yields the overrides of runs as the B and as the S series were searched.

    Args:
      arg: Argument of the config; "smoke" leaves one seed of a few steps.
    """
    is_smoke = "smoke" in arg.split(",")
    for seed in range(1 if is_smoke else NUM_SEEDS):
        for num_steps, (schedule, norm_acts) in SERIES.items():
            for norm_act in norm_acts:
                yield {
                    **recipes.layer_overrides(norm_act),
                    "schedule.name": schedule,
                    "num_steps": num_steps // 500 if is_smoke else num_steps,
                    "seed": seed,
                }
