"""Your own photographs: EvoNorm-S0 in a ResNet-50-D, from weights where they are named.

    python -m experiments.train --config configs/finetune_folder.py --config.dataset.path=photos

`photos/<class>/*.jpg` is split by itself; folders `photos/train/<class>/*.jpg` and `photos/val/...`
are taken as they are. What is -1 below is chosen to fit the images, from ten to some hundred
thousand (evonorm_jax/training/fit_to_data.py has the rules). docs/finetuning.md goes the whole way.

Hardware: one GPU, minutes to hours; a CPU for small images and networks.
Paper: gives no numbers for data of your own.
"""

from ml_collections import ConfigDict

from configs import recipes
from evonorm_jax.data import dataset_config


def get_config(arg: str = "") -> ConfigDict:
    config = recipes.base_config()
    # The network of timm's resnetv2_50d_evos, whose weights are published, and what these want.
    config.model.name = "resnet50"
    config.model.norm_act = "evonorm_s0"
    config.model.fields.update({"stem": "imagenet_deep", "avg_down": True})
    scale = (127.5,) * 3
    config.dataset = dataset_config("", "folder", image_size=-1, mean=scale, std=scale)
    # Short runs, which ImageNet's crops of 8 % of an image would leave with too few views of each.
    config.dataset.min_crop_area = 0.25

    # One worker: batch statistics, where a layer has them, are those of the whole batch, on any
    # number of devices.
    config.num_workers = 1
    config.images_per_worker = -1
    config.num_steps = -1
    config.schedule.warmup_epochs = -1.0
    config.eval_every_epochs = -1.0
    config.optimizer.learning_rate_per_256 = 0.0
    config.optimizer.learning_rate = -1.0
    config.log_every_steps = 10
    config.tensorboard = False  # metrics.jsonl and curve.png suffice for short runs
    return recipes.parse_arg(config, arg)
