"""Data sets prepared by TFDS, streamed by tf.data. Importing this module imports TensorFlow.

TFRecord files can only be read forwards. An epoch is therefore shuffled in two stages, the order of
the files and a buffer of records, both seeded by (seed, epoch); a resumed run skips the records
before its step without decoding them, which costs the reading alone. Each host reads its own part
of the split, so that the global batches depend on the number of hosts (not on that of devices).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from evonorm_jax.data import tfds_source
from evonorm_jax.data.arrays import check_labels
from evonorm_jax.data.pipeline import Batch, Hosts, count_steps
from evonorm_jax.data.streaming import StreamingPipeline
from evonorm_jax.data.tf_stream import Decoder
from evonorm_jax.errors import UserError


class TfdsStream(StreamingPipeline):
    """A `Pipeline` over the records of a prepared TFDS set."""

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        config: ml_collections.ConfigDict,
        *,
        seed: int,
        evaluation_only: bool = False,
    ) -> None:
        label = builder.info.features["label"]
        train = range(0) if evaluation_only else tfds_source.own_range(builder, config.train_split)
        super().__init__(
            config,
            seed=seed,
            num_classes=label.num_classes,
            num_train_examples=len(train),
            num_eval_examples=len(tfds_source.own_range(builder, config.eval_split)),
            class_names=tuple(label.names),
        )
        self._builder = builder
        self._decoder = Decoder(config, seed=seed)

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32}`."""
        size = hosts.host_batch(batch_size)
        steps = count_steps(self.num_train_examples, batch_size)
        if start_step < 0:
            raise UserError(f"start_step must be 0 or more, not {start_step}.")
        first_epoch, first_step = divmod(start_step, steps)
        first_position = hosts.positions(batch_size).start

        for epoch in itertools.count(first_epoch):

            def decode(
                number: tf.Tensor, example: dict[str, tf.Tensor], epoch: int = epoch
            ) -> dict[str, tf.Tensor]:
                # The host's n-th record is the example at this position of the global batches.
                position = number // size * batch_size + first_position + number % size
                place = epoch * self.num_train_examples + position
                image = self._decoder.decode_train(example["image"], place)
                return {"image": image, "label": example["label"]}

            records = self._epoch(epoch, hosts)
            rest = records.enumerate().skip(first_step * size).take((steps - first_step) * size)
            batches = self._decoder.batches(rest, decode, size)
            for step in range(first_step, steps):
                with self._decoder.naming_broken(
                    functools.partial(tfds_source.records, records, step * size, size)
                ):
                    batch = self._checked(next(batches))
                yield hosts.shard(batch)
            first_step = 0

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"image": uint8, "label": int32, "mask": float32}`."""
        size = hosts.host_batch(hosts.round_up(batch_size))
        part = tfds_source.own_range(self._builder, self._config.eval_split, hosts)
        # The first host has the largest part; all of them must yield as many batches as it does.
        largest = -(-self.num_eval_examples // hosts.process_count)

        def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            image = self._decoder.decode_eval(example["image"])
            return {"image": image, "label": example["label"]}

        def named() -> Iterator[Batch]:
            if not part:
                return
            read_config = tfds.ReadConfig(try_autocache=False, add_tfds_id=True)
            records = self._records(self._config.eval_split, part, read_config)
            batches = self._decoder.batches(records, decode, size)
            for first in range(0, len(part), size):
                with self._decoder.naming_broken(
                    functools.partial(tfds_source.records, records, first, size)
                ):
                    batch = self._checked(next(batches))
                yield batch

        yield from self._pad_eval(named(), -(-largest // size), size, hosts)

    def _epoch(self, epoch: int, hosts: Hosts) -> tf.data.Dataset:
        """This host's records of one epoch, still encoded, in the order of training."""
        state = np.random.SeedSequence((self._seed, epoch)).generate_state(2)
        file_seed, buffer_seed = (int(word) for word in state)
        options = tf.data.Options()
        options.deterministic = True
        read_config = tfds.ReadConfig(
            options=options,
            shuffle_seed=file_seed,
            try_autocache=False,
            add_tfds_id=True,
            enable_ordering_guard=False,  # a set that was prepared in order is shuffled as well
        )
        part = tfds_source.own_range(self._builder, self._config.train_split, hosts)
        records = self._records(self._config.train_split, part, read_config, shuffle_files=True)
        return records.shuffle(
            self._config.shuffle_buffer, seed=buffer_seed, reshuffle_each_iteration=False
        )

    def _checked(self, batch: Batch) -> Batch:
        where = f"'{self._builder.info.full_name}'"
        return {**batch, "label": check_labels(batch["label"], self.num_classes, where)}

    def _records(
        self, split: str, part: range, read_config: tfds.ReadConfig, *, shuffle_files: bool = False
    ) -> tf.data.Dataset:
        return self._builder.as_dataset(
            split=tfds_source.range_split(split, part),
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=read_config,
            shuffle_files=shuffle_files,
        )
