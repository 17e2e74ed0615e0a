"""Data sets that stream from the host, batch by batch: what all of them share, and fake data.

The images of a host batch are uint8 and are normalised on the device: a quarter of the transfer of
float32. `folder_stream.py` and `tfds_stream.py` read real images by tf.data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.data import augment
from evonorm_jax.data.arrays import fake_sizes
from evonorm_jax.data.pipeline import Batch, Hosts, Pipeline, eval_mask, pad_to, train_positions
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


class StreamingPipeline(Pipeline):
    """A `Pipeline` whose batches are `{"image": uint8, "label": int32}`, ready for the network.

    Raises:
      UserError: `pad` is set, which only the data sets in memory know.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        *,
        seed: int,
        num_classes: int,
        num_train_examples: int,
        num_eval_examples: int,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        if config.pad:
            raise UserError(
                f"config.dataset.pad is {config.pad}, but a streamed set takes random resized"
                " crops, no padding: set pad=0, or in_memory=True for a set that fits."
            )
        crop = config.train_crop_size or config.image_size
        self.num_classes = num_classes
        self.num_train_examples = num_train_examples
        self.num_eval_examples = num_eval_examples
        self.image_shape = (crop, crop, len(config.mean))
        self.class_names = class_names
        self._config = config
        self._seed = seed
        self._normalize = functools.partial(
            augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
        )

    def resident(self) -> Batch:
        """Returns nothing."""
        return {}

    def train_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        del resident, keys  # the host has augmented the images
        return {"image": self._normalize(batch["image"]), "label": batch["label"]}

    def eval_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        del resident
        images, mask = self._normalize(batch["image"]), batch["mask"].astype(jnp.float32)
        return {"image": images, "label": batch["label"], "mask": mask}

    def _pad_eval(
        self, batches: Iterator[Batch], num_batches: int, size: int, hosts: Hosts
    ) -> Iterator[Batch]:
        """Makes `num_batches` of `size` images from this host's, adding the mask and the padding.

        The host's last batch may be short, or missing where the other hosts still have images.
        """
        shape = (0, self._config.image_size, self._config.image_size, len(self._config.mean))
        empty = {"image": np.zeros(shape, np.uint8), "label": np.zeros(0, np.int32)}
        for _ in range(num_batches):
            batch = next(batches, empty)
            mask = eval_mask(len(batch["label"]), size)
            padded = {name: pad_to(leaf, size) for name, leaf in batch.items()}
            yield hosts.shard(padded | {"mask": mask})


class FakeStream(StreamingPipeline):
    """Host batches of random images: no disk, no decoding, no TensorFlow.

    It shows what the transfer to the devices costs, and stands in for ImageNet in smoke runs.
    Example i shows image i modulo 64 of a fixed pool and has label i modulo `num_classes`.
    """

    POOL_SIZE = 64  # 10 MB at 224 pixels: larger than the caches of most processors

    def __init__(
        self, config: ml_collections.ConfigDict, *, seed: int, evaluation_only: bool = False
    ) -> None:
        num_train, num_eval, num_classes = fake_sizes(config, evaluation_only=evaluation_only)
        super().__init__(
            config,
            seed=seed,
            num_classes=num_classes,
            num_train_examples=num_train,
            num_eval_examples=num_eval,
        )
        self.train_labels = np.arange(num_train) % num_classes

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32}`."""
        pool = self._pool(self.image_shape[0])
        for indices, _ in train_positions(
            self.num_train_examples,
            self._seed,
            start_step=start_step,
            batch_size=batch_size,
            hosts=hosts,
        ):
            yield hosts.shard(self._batch(pool, indices))

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32, "mask": float32}`."""
        batch_size = hosts.round_up(batch_size)
        pool = self._pool(self._config.image_size)
        batches = (
            self._batch(pool, indices)
            for indices in eval_positions(self.num_eval_examples, batch_size, hosts)
        )
        num_batches = -(-self.num_eval_examples // batch_size)
        yield from self._pad_eval(batches, num_batches, hosts.host_batch(batch_size), hosts)

    def _pool(self, size: int) -> np.ndarray:
        shape = (self.POOL_SIZE, size, size, len(self._config.mean))
        return np.random.default_rng(self._seed).integers(0, 256, shape, np.uint8)

    def _batch(self, pool: np.ndarray, indices: np.ndarray) -> Batch:
        labels = (indices % self.num_classes).astype(np.int32)
        return {"image": pool[indices % len(pool)], "label": labels}


def eval_positions(num_examples: int, batch_size: int, hosts: Hosts) -> Iterator[np.ndarray]:
    """Yields this process's examples of each global batch; the last ones are short or empty."""
    share = hosts.positions(batch_size)
    for first in range(0, num_examples, batch_size):
        yield np.arange(first, min(first + batch_size, num_examples))[share]
