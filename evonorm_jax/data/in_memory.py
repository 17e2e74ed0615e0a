"""Data sets that fit on a device: placed there once, augmented inside the compiled step.

The host sends indices only, 4 bytes per example, so that it is never the bottleneck.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.data import augment
from evonorm_jax.data.arrays import Arrays
from evonorm_jax.data.pipeline import Batch, Hosts, Pipeline, eval_indices, train_positions
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


class InMemoryPipeline(Pipeline):
    """A `Pipeline` over four arrays, see `arrays.Arrays`.

    Training: random crop after zero padding (`pad`, `train_crop_size`) and flip (`flip`), in JAX.
    Evaluation: the images as they are.

    Raises:
      UserError: The arrays and the configuration disagree.
    """

    def __init__(self, arrays: Arrays, config: ml_collections.ConfigDict, *, seed: int) -> None:
        size, channels = config.image_size, len(config.mean)
        for images in (arrays.train_images, arrays.eval_images):
            if images.shape[-1] not in (1, 3) or images.shape[-1] != channels:
                raise UserError(
                    f"The images of '{config.name}' have {images.shape[-1]} channels, but"
                    f" config.dataset.mean has {channels} values: give mean and std one value for"
                    " grey images, three for RGB; other numbers of channels are not supported."
                )
            if images.shape[1:3] != (size, size):
                raise UserError(
                    f"The images of '{config.name}' are {images.shape[1]}x{images.shape[2]} pixels,"
                    f" but config.dataset.image_size is {size}: the two must agree (square images)."
                )
        crop = config.train_crop_size or size
        self.num_classes = arrays.num_classes
        self.num_train_examples = len(arrays.train_images)
        self.num_eval_examples = len(arrays.eval_images)
        self.image_shape = (crop, crop, channels)
        self.class_names = arrays.class_names
        self.train_labels = arrays.train_labels
        self._arrays = arrays
        self._seed = seed
        self._augment = functools.partial(
            augment.augment, size=crop, pad=config.pad, flip=config.flip
        )
        self._normalize = functools.partial(
            augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
        )

    def resident(self) -> Batch:
        """Returns images (uint8) and labels (int32) of both splits, or of evaluation alone."""
        names = ["eval_images", "eval_labels"]
        if self.num_train_examples:
            names += ["train_images", "train_labels"]
        return {name: getattr(self._arrays, name) for name in names}

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"index": int32}`."""
        for indices, _ in train_positions(
            self.num_train_examples,
            self._seed,
            start_step=start_step,
            batch_size=batch_size,
            hosts=hosts,
        ):
            yield hosts.shard({"index": indices.astype(np.int32)})

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"index": int32, "mask": float32}`; padding has index 0."""
        for indices, mask in eval_indices(self.num_eval_examples, batch_size, hosts):
            yield hosts.shard({"index": indices, "mask": mask})

    def train_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        images = resident["train_images"][batch["index"]]
        labels = resident["train_labels"][batch["index"]]
        images = self._normalize(jax.vmap(self._augment)(keys, images))
        return {"image": images, "label": labels}

    def eval_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        images = self._normalize(resident["eval_images"][batch["index"]])
        labels = resident["eval_labels"][batch["index"]]
        return {"image": images, "label": labels, "mask": batch["mask"].astype(jnp.float32)}
