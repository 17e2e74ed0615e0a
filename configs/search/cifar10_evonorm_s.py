"""The search behind EvoNorm-S0, S1 and S2: no moments over the batch.

    python -m experiments.search --config configs/search/cifar10_evonorm_s.py --workdir runs/s

Hardware: a Ray cluster; with `:small` one GPU, with `:tiny` or `:deep,npz` CPU cores.
Paper: section 3; 5,000 steps with a cosine schedule.

Without TFDS: `--config.dataset.source=npz --config.dataset.path=cifar10.npz`, or `folder`.
"""

from ml_collections import ConfigDict

from configs.search.recipe import search_config


def get_config(arg: str = "") -> ConfigDict:
    return search_config(arg, batch_moments=False, num_steps=5_000, schedule="cosine")
