"""The search behind EvoNorm-B0, B1 and B2: moments over the batch are allowed.

    python -m experiments.search --config configs/search/cifar10_evonorm_b.py --workdir runs/b

Hardware: a Ray cluster; with `:small` one GPU, with `:tiny` or `:deep,npz` CPU cores.
Paper: section 3; 2,000 steps at a constant learning rate.

Without TFDS: `--config.dataset.source=npz --config.dataset.path=cifar10.npz`, or `folder`.
"""

from ml_collections import ConfigDict

from configs.search.recipe import search_config


def get_config(arg: str = "") -> ConfigDict:
    return search_config(arg, batch_moments=True, num_steps=2_000, schedule="constant")
