"""Random layers, none rejected that sees x: how do accuracies on different networks compare?

    python -m experiments.search --config configs/search/cifar10_random_layers.py --workdir runs/r
    python -m experiments.plot runs/r

Hardware: a Ray cluster; with `:small` one GPU, with `:tiny` two CPU cores.
Paper: arXiv v1, Figure 4; 5,000 layers.

Without TFDS: `--config.dataset.source=npz --config.dataset.path=cifar10.npz`, or `folder`.
"""

from ml_collections import ConfigDict

from configs.search.recipe import random_layers_config


def get_config(arg: str = "") -> ConfigDict:
    return random_layers_config(arg)
