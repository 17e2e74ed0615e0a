"""COCO folders that are too large for the devices: read by threads while training goes on.

The decoders release Python's lock, so that threads suffice and nothing needs TensorFlow. Every
batch is a pure function of (seed, step), and augmentation stays in the compiled step.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data.instances.coco_json import CocoFolder, CocoImage, read_pixels
from evonorm_jax.data.instances.examples import fit_image, make_example
from evonorm_jax.data.instances.pipeline import OBJECTS, PICTURE, InstancePipeline, stack
from evonorm_jax.data.pipeline import Batch, Hosts, eval_indices, train_positions

T = TypeVar("T")


class CocoStream(InstancePipeline):
    """A COCO folder of which every batch is read when its turn comes.

    Args:
      folder: The images and their objects.
      config: `config.dataset`.
      seed: Seed of the order.
    """

    def __init__(self, folder: CocoFolder, config: ml_collections.ConfigDict, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._train = folder.train.images if folder.train else ()
        self._eval = folder.eval.images
        self._truth = folder.eval.truth
        self.num_train_examples, self.num_eval_examples = len(self._train), len(self._eval)
        self.class_names, self.category_ids = folder.class_names, folder.category_ids
        self.num_classes = len(folder.class_names)

    @property
    def truth(self) -> dict[str, Any]:
        return self._truth

    def eval_picture(self, index: int) -> np.ndarray:
        example = self._read_picture(self._eval[index])
        height, width = example["valid_size"]
        return example["image"][:height, :width]

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields the examples of `examples.make_example`."""
        order = train_positions(
            self.num_train_examples,
            self._seed,
            start_step=start_step,
            batch_size=batch_size,
            hosts=hosts,
        )
        batches = ([self._train[i] for i in indices] for indices, _ in order)
        for examples in _read_ahead(self._read, batches, self._config.prefetch):
            batch = stack(examples)
            yield hosts.shard({name: batch[name] for name in batch if name != "scale"})

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `index` and `mask` with what `examples.fit_image` returns."""
        places = list(eval_indices(self.num_eval_examples, batch_size, hosts))
        batches = ([self._eval[i] for i in indices] for indices, _ in places)
        read = _read_ahead(self._read_picture, batches, self._config.prefetch)
        for (indices, mask), examples in zip(places, read, strict=True):
            yield hosts.shard({**stack(examples), "index": indices, "mask": mask})

    def _read(self, image: CocoImage) -> Batch:
        return make_example(self._pixels(image), image.instances, self._config)

    def _read_picture(self, image: CocoImage) -> Batch:
        return fit_image(self._pixels(image), self._config.image_size)

    def _pixels(self, image: CocoImage) -> np.ndarray:
        return read_pixels(image, upright=self._config.exif_orientation)

    def _draw_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        del resident, keys
        rows = {name: batch[name] for name in ("image", "valid_size", *OBJECTS)}
        return {**rows, "masks": jnp.unpackbits(rows["masks"], axis=-1)}

    def _eval_pictures(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        del resident
        return {name: batch[name] for name in PICTURE}


def _read_ahead(
    read: Callable[[CocoImage], T], batches: Iterable[list[CocoImage]], ahead: int
) -> Iterator[list[T]]:
    """Maps `read` over batches by as many threads as there are processors, `ahead` of their use."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    waiting: collections.deque[list[concurrent.futures.Future[T]]] = collections.deque()
    try:
        for batch in batches:
            waiting.append([pool.submit(read, image) for image in batch])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
