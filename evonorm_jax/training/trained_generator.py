"""The generator of a run, ready to draw images: for sampling, and to measure what it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.gan import Gan
from evonorm_jax.gan.sampling import (
    Sampler,
    averaged_variables,
    draw_inputs,
    draw_noise,
    with_standing_statistics,
)
from evonorm_jax.interop.safetensors_file import check_finite
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.config import check_config
from evonorm_jax.training.model import build_gan
from evonorm_jax.training.parallel import keys_at
from evonorm_jax.training.run_directory import read_config

# Every evaluation of every run draws the same noise, so that its pictures and figures compare.
EVALUATION_SEED = 0


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """The generator of a run.

    Attributes:
      config: Config of the run.
      step: Number of training steps behind the weights.
      gan: Both players.
      draw: Function from noise and classes to images, with the weights of the run.
    """

    config: ml_collections.ConfigDict
    step: int
    gan: Gan
    draw: Sampler

    def samples(
        self, count: int, *, truncation: float | None = None, seed: int = EVALUATION_SEED
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws images of classes at random; by default those that the run's evaluations draw.

        Args:
          count: Number of images.
          truncation: Truncation of the noise, above 0 and at most 1; None for noise that is not
            truncated.
          seed: Seed of noise and classes.

        Returns:
          Images `[count, size, size, C]`, uint8, and their classes `[count]`.
        """
        z, labels = jax.jit(lambda keys: draw_inputs(keys, self.gan, truncation))(
            _keys(seed, count)
        )
        return self.draw(np.asarray(z), np.asarray(labels)), np.asarray(labels)

    def samples_of(
        self, labels: np.ndarray, *, truncation: float | None = None, seed: int = EVALUATION_SEED
    ) -> np.ndarray:
        """Draws one image for each label `[N]`, integers; returns `[N, size, size, C]`, uint8."""
        z = draw_noise(_keys(seed, len(labels)), self.gan.z_dim, truncation)
        return self.draw(np.asarray(z), labels)


def load_generator(
    workdir: str | Path,
    step: int | None = None,
    *,
    newest_weights: bool = False,
    config: ml_collections.ConfigDict | None = None,
) -> TrainedGenerator:
    """Reads the generator of a run of image synthesis; the data set is not needed.

    Args:
      workdir: The run directory; nothing in it is changed.
      step: Step of the checkpoint; the newest by default.
      newest_weights: Whether to take the newest weights although the run kept averages.
      config: Config of the run, possibly with other values; its own by default.

    Raises:
      UserError: There is no such checkpoint, its weights are not finite, or the run trained
        something else.
    """
    config = config or read_config(Path(workdir))
    check_task(config, workdir)
    check_config(config)
    with Checkpoints(Path(workdir), read_only=True) as checkpoints:
        step, variables, averages = checkpoints.read_variables(step)
    generator = {name: p["generator"] for name, p in variables.items() if "generator" in p}
    num_classes = len(generator["params"]["class_embedding"]["embedding"])
    gan = build_gan(config, num_classes)
    params = averages["params"]["generator"] if averages and not newest_weights else None
    used = {**generator, "params": generator["params"] if params is None else params}
    check_finite(traverse_util.flatten_dict(used, sep="/"), f"{workdir} at step {step}")
    # Compiled once for the whole of it: the standing statistics are many passes.
    prepare = jax.jit(lambda variables, params: sampling_variables(config, gan, variables, params))
    return TrainedGenerator(config, step, gan, Sampler(gan, prepare(generator, params)))


def check_task(config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Raises `UserError` for a run of another task, which has no generator."""
    if config.task != "image_synthesis":
        raise UserError(
            f"{workdir} is a run of the task {config.task!r} and has no generator: name a run of "
            "a config such as configs/biggan_deep_digits_evonorm_s0.py."
        )


def sampling_variables(
    config: ml_collections.ConfigDict, gan: Gan, variables: Mapping[str, Any], averages: Any
) -> dict[str, Any]:
    """Makes the variables to draw images with from the generator's own; may be traced.

    Args:
      config: Config of the run; the fields of its workers and of standing statistics are read.
      gan: Both players.
      variables: Variables of the generator after training.
      averages: Averaged parameters to take instead; None for those of `variables`.
    """
    if averages is not None:
        variables = averaged_variables(gan, variables, averages)
    together = config.images_per_worker * (config.num_workers if config.sync_batch_stats else 1)
    return with_standing_statistics(
        gan,
        variables,
        jax.random.key(EVALUATION_SEED),
        num_passes=config.standing_passes,
        pass_size=config.standing_batch_size or together,
    )


def _keys(seed: int, count: int) -> jax.Array:
    return keys_at(jax.random.key(seed), jnp.arange(count))
