"""Class folders of any size, streamed by tf.data. Importing this module imports TensorFlow.

A file can be opened in any order, so the order of an epoch is a numpy permutation: a full shuffle,
the same global batches for every number of hosts, and a resumed run starts at once.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from evonorm_jax.data.folder import ClassFolder, FolderSplit
from evonorm_jax.data.pipeline import Batch, Hosts, count_steps, train_positions
from evonorm_jax.data.streaming import StreamingPipeline, eval_positions
from evonorm_jax.data.tf_stream import Decoder


class FolderStream(StreamingPipeline):
    """A `Pipeline` over the files of a `ClassFolder`."""

    def __init__(
        self, folder: ClassFolder, config: ml_collections.ConfigDict, *, seed: int
    ) -> None:
        super().__init__(
            config,
            seed=seed,
            num_classes=len(folder.class_names),
            num_train_examples=len(folder.train.paths),
            num_eval_examples=len(folder.eval.paths),
            class_names=folder.class_names,
        )
        self.train_labels = folder.train.labels
        self._folder = folder
        self._decoder = Decoder(config, seed=seed)

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32}`."""
        size = hosts.host_batch(batch_size)
        count_steps(self.num_train_examples, batch_size)  # fails here, not in tf.data's thread

        def plan() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return train_positions(
                self.num_train_examples,
                self._seed,
                start_step=start_step,
                batch_size=batch_size,
                hosts=hosts,
            )

        split = self._folder.train
        paths, labels = tf.constant(_encode(split.paths)), tf.constant(split.labels)

        def decode(index: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
            image = self._decoder.decode_train(tf.io.read_file(paths[index]), place)
            return {"image": image, "label": labels[index]}

        # One Python call per batch, not per example.
        indices = tf.data.Dataset.from_generator(
            plan, output_signature=(tf.TensorSpec([size], tf.int64),) * 2
        ).unbatch()
        batches = self._decoder.batches(indices, decode, size)
        for needed, _ in plan():
            with self._decoder.naming_broken(_candidates(split, needed)):
                batch = next(batches)
            yield hosts.shard(batch)

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32, "mask": float32}`."""
        batch_size = hosts.round_up(batch_size)
        size = hosts.host_batch(batch_size)
        split = self._folder.eval
        plan = list(eval_positions(self.num_eval_examples, batch_size, hosts))

        def decode(path: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"image": self._decoder.decode_eval(tf.io.read_file(path)), "label": label}

        own = np.concatenate(plan)
        paths = tf.constant(_encode(split.paths[index] for index in own), tf.string)
        examples = tf.data.Dataset.from_tensor_slices((paths, split.labels[own]))
        batches = self._decoder.batches(examples, decode, size)

        def named() -> Iterator[Batch]:
            for needed in plan:
                if not len(needed):
                    return
                with self._decoder.naming_broken(_candidates(split, needed)):
                    batch = next(batches)
                yield batch

        yield from self._pad_eval(named(), len(plan), size, hosts)


def _encode(paths: Iterable[str]) -> list[bytes]:
    """Names of files as the system has them: TensorFlow refuses text that is no UTF-8."""
    return [os.fsencode(path) for path in paths]


def _candidates(split: FolderSplit, indices: np.ndarray) -> Callable[[], Iterable[tuple[str, Any]]]:
    """Reads the given files again, for `Decoder.naming_broken`."""

    def read() -> Iterator[tuple[str, Any]]:
        for index in indices:
            path = split.paths[index]
            try:
                yield path, pathlib.Path(path).read_bytes()
            except OSError as error:
                yield path, error

    return read
