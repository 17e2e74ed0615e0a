"""The data that candidates are trained on, held in device memory.

>>> from evonorm_jax.data import dataset_config
>>> protocol = ProxyProtocol(crop_size=0, batch_size=8)
>>> data = ProxyData(dataset_config("digits", "embedded"), protocol)
>>> images, labels = next(data.train_batches(seed=0))
>>> images.shape, data.num_classes
((8, 8, 8, 1), 10)
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data import create_pipeline
from evonorm_jax.data.pipeline import Hosts, train_positions
from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.protocol import ProxyProtocol


class ProxyData:
    """A data set in device memory, cut into the batches of a protocol.

    Args:
      config: A config of `evonorm_jax.data.dataset_config`.
      protocol: Gives the crop size and the batch sizes.

    Attributes:
      num_classes: The number of classes; labels are 0 ... num_classes - 1.
      image_shape: `(height, width, channels)` in training.

    Raises:
      UserError: The config is that of a streamed set, or does not suit the protocol.
    """

    def __init__(self, config: ml_collections.ConfigDict, protocol: ProxyProtocol) -> None:
        config = ml_collections.ConfigDict(config)
        if not config.in_memory:
            raise UserError(
                f"the search trains on images in device memory, and '{config.name}' is streamed: "
                "take CIFAR-10, or set in_memory=True"
            )
        if protocol.crop_size:
            config.train_crop_size, config.pad = protocol.crop_size, 0
        # The order of the examples comes from the seed of each candidate, not from here.
        self._pipeline = create_pipeline(config, seed=0)
        self.num_classes = self._pipeline.num_classes
        self.image_shape = self._pipeline.image_shape
        self._batch_size = protocol.batch_size
        self._eval_batch_size = min(protocol.eval_batch_size, self._pipeline.num_eval_examples)
        self._resident = jax.device_put(self._pipeline.resident())
        # Files are often sorted by class; a part of the split must mix them.
        self._eval_order = np.random.default_rng(0).permutation(self._pipeline.num_eval_examples)

    def train_batches(self, seed: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Yields augmented images and labels without end, the same for the same seed."""
        positions = train_positions(
            self._pipeline.num_train_examples,
            seed,
            start_step=0,
            batch_size=self._batch_size,
            hosts=Hosts(),
        )
        for step, (indices, _) in enumerate(positions):
            yield self._train_batch(self._resident, indices.astype(np.int32), seed, step)

    def eval_batches(self, num_examples: int) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """Yields images, labels and mask of the first examples of the mixed split; 0 takes all."""
        order = self._eval_order[: num_examples or None]
        size = self._eval_batch_size
        for first in range(0, len(order), size):
            indices = np.zeros(size, np.int32)
            part = order[first : first + size]
            indices[: len(part)] = part
            yield self._eval_batch(self._resident, indices, len(part))

    @functools.partial(jax.jit, static_argnums=0)
    def _train_batch(self, resident: Any, index: Any, seed: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), step)
        keys = jax.random.split(key, len(index))
        examples = self._pipeline.train_examples(resident, {"index": index}, keys)
        return examples["image"], examples["label"]

    @functools.partial(jax.jit, static_argnums=0)
    def _eval_batch(self, resident: Any, index: Any, count: Any) -> Any:
        mask = jnp.arange(len(index)) < count
        examples = self._pipeline.eval_examples(resident, {"index": index, "mask": mask})
        return examples["image"], examples["label"], examples["mask"]
