"""What the training loop needs from a data set, and how a global batch is laid on devices.

A `Pipeline` hides whether the images live on the devices (`in_memory.py`) or stream from the host
(`streaming.py`). Three promises hold for every one of them:

* A training batch is a pure function of (seed, step). Nothing else is remembered, so a run that
  resumes at a step sees exactly the batches that the uninterrupted run would have seen.
* Position p of a global batch belongs to device p // per_device in global device order, so that
  1, 2 or 8 devices train on the same images in the same order.
* Evaluation counts every example once: the last batches are padded, and a mask says where.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np

from evonorm_jax.errors import UserError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Says which process this is, among how many, and the devices of each.

    The defaults are one process with one device.
    """

    process_index: int = 0
    process_count: int = 1
    local_device_count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.process_index < self.process_count or self.local_device_count < 1:
            raise UserError(
                f"{self} is impossible: process_index counts from 0 below process_count, and every"
                " process needs at least one device."
            )

    @property
    def device_count(self) -> int:
        """Devices of all processes together."""
        return self.process_count * self.local_device_count

    def per_device(self, batch_size: int) -> int:
        """Returns the images per device of a global batch.

        >>> Hosts(process_count=2, local_device_count=4).per_device(64)
        8

        Raises:
          UserError: The devices cannot share the batch equally.
        """
        if batch_size < 1 or batch_size % self.device_count:
            raise UserError(
                f"A global batch of {batch_size} cannot be shared by {self.device_count} devices:"
                " it must be a positive multiple of their number."
            )
        return batch_size // self.device_count

    def host_batch(self, batch_size: int) -> int:
        """Returns the images per process of a global batch."""
        return self.per_device(batch_size) * self.local_device_count

    def round_up(self, batch_size: int) -> int:
        """Returns the smallest multiple of the number of devices that holds `batch_size` images.

        >>> Hosts(local_device_count=8).round_up(100)
        104
        """
        if batch_size < 1:
            raise UserError(f"The evaluation batch must be positive, not {batch_size}.")
        return math.ceil(batch_size / self.device_count) * self.device_count

    def positions(self, batch_size: int) -> slice:
        """Returns the positions of a global batch that belong to this process."""
        share = self.host_batch(batch_size)
        return slice(self.process_index * share, (self.process_index + 1) * share)

    def shard(self, batch: Batch) -> Batch:
        """Splits leaves `[host_batch, ...]` into `[local_devices, per_device, ...]`."""
        return {
            name: leaf.reshape(self.local_device_count, -1, *leaf.shape[1:])
            for name, leaf in batch.items()
        }


class Pipeline(abc.ABC):
    """A data set as the training loop sees it.

    Attributes:
      num_classes: Number of classes; labels are 0 ... num_classes - 1.
      num_train_examples: Size of the training split; 0 in a pipeline for evaluation only.
      num_eval_examples: Size of the evaluation split.
      image_shape: `(height, width, channels)` of what the network sees in training.
      class_names: One name per label, or None where the source has none.
    """

    num_classes: int
    num_train_examples: int
    num_eval_examples: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None

    @abc.abstractmethod
    def resident(self) -> Batch:
        """Returns what the loop puts on every device once; `{}` for a streaming pipeline."""

    @abc.abstractmethod
    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields this process's share of the training batches from `start_step` on, without end.

        Args:
          start_step: First step; every earlier one is skipped, not computed.
          batch_size: Images of the global batch; a remainder at the end of an epoch is dropped.
          hosts: This process among all processes.

        Yields:
          Leaves `[local_devices, per_device, ...]`.

        Raises:
          UserError: The devices cannot share the batch, it is larger than the split, or the
            pipeline is for evaluation only.
        """

    @abc.abstractmethod
    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields this process's share of one pass over the evaluation split.

        Args:
          batch_size: Images of the global batch, which is rounded up to a multiple of the number of
            devices.
          hosts: This process among all processes.

        Yields:
          Leaves `[local_devices, per_device, ...]`; "mask" is 1.0 for an example and 0.0 for
          padding. Every process yields the same number of batches, and over all of them each
          example comes exactly once.
        """

    @abc.abstractmethod
    def train_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        """Makes the training examples of one device's batch; traced inside the compiled step.

        Args:
          resident: What `resident` returned, on the device.
          batch: Leaves `[b, ...]`.
          keys: Typed PRNG keys `[b]`, one per example.

        Returns:
          Named arrays `[b, ...]`. Images with a class have `image` `[b, H, W, C]`, float32,
          normalised, and `label` `[b]`, int32.
        """

    @abc.abstractmethod
    def eval_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Makes the examples of one device's evaluation batch; traced inside the compiled step.

        Returns:
          Named arrays `[b, ...]` as in training, and `mask` `[b]`, 1.0 for an example and 0.0 for
          padding.
        """


def steps_per_epoch(pipeline: Pipeline, batch_size: int) -> int:
    """Counts the whole batches in one pass over the training split; the remainder is dropped.

    Raises:
      UserError: The batch is larger than the split, or the pipeline is for evaluation only.
    """
    return count_steps(pipeline.num_train_examples, batch_size)


def count_steps(num_examples: int, batch_size: int) -> int:
    """Counts the same as `steps_per_epoch`, from the number of examples.

    >>> count_steps(50_000, 128)
    390
    """
    if num_examples == 0:
        raise UserError(
            "The pipeline has no training split, since it was created for evaluation only: create"
            " it without evaluation_only=True to train."
        )
    if not 1 <= batch_size <= num_examples:
        raise UserError(
            f"A batch of {batch_size} does not fit a training split of {num_examples} examples:"
            f" take 1 to {num_examples} (of a config: num_workers * images_per_worker)."
        )
    return num_examples // batch_size


def train_positions(
    num_examples: int, seed: int, *, start_step: int, batch_size: int, hosts: Hosts
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each step this process's examples and their places in the order of the run.

    The order of an epoch is `np.random.default_rng((seed, epoch)).permutation(num_examples)`.

    Yields:
      Indices and places, both int64 `[host_batch]`. A place is `epoch * num_examples + position in
      the epoch`, a number that no other draw of the run has: a source of random bits that does not
      depend on the batch size or on the devices.
    """
    steps = count_steps(num_examples, batch_size)
    share = hosts.positions(batch_size)
    if start_step < 0:
        raise UserError(f"start_step must be 0 or more, not {start_step}.")
    epoch, step = divmod(start_step, steps)
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(num_examples)
        for first in range(step * batch_size, steps * batch_size, batch_size):
            positions = np.arange(first, first + batch_size)[share]
            yield order[positions], epoch * num_examples + positions
        epoch, step = epoch + 1, 0


def eval_indices(
    num_examples: int, batch_size: int, hosts: Hosts
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields this process's share of the batches of one pass over a split.

    Yields:
      Indices, int32 `[host_batch]`, and float32 `[host_batch]`, 1.0 for an example and 0.0 for
      padding, whose index is 0.
    """
    batch_size = hosts.round_up(batch_size)
    share = hosts.positions(batch_size)
    for first in range(0, num_examples, batch_size):
        mask = eval_mask(num_examples - first, batch_size)
        indices = np.where(mask > 0, np.arange(first, first + batch_size), 0)
        yield indices.astype(np.int32)[share], mask[share]


def pad_to(leaf: np.ndarray, size: int) -> np.ndarray:
    """Appends zeros until the leading axis has `size` entries."""
    return np.concatenate([leaf, np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])


def eval_mask(num_real: int, size: int) -> np.ndarray:
    """Returns float32 `[size]`: 1.0 for the first `num_real` entries, 0.0 for the padding."""
    return (np.arange(size) < num_real).astype(np.float32)
