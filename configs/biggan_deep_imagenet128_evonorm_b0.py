"""BigGAN-deep on ImageNet at 128 pixels: EvoNorm-B0 in the generator.

    python -m experiments.train --config configs/biggan_deep_imagenet128_evonorm_b0.py

Hardware: a TPU v3-128 for one to two days, or eight GPUs for weeks.
Paper: Inception Score and FID of this layer in Table 5 (docs/reproduction.md). Not run here:
docs/synthesis.md says what a run costs and what the paper leaves open.
"""

from ml_collections import ConfigDict

from configs import synthesis_recipes


def get_config(arg: str = "") -> ConfigDict:
    config = synthesis_recipes.biggan_deep_imagenet128("evonorm_b0")
    return synthesis_recipes.parse_arg(config, arg)
