"""Data sets prepared by TensorFlow Datasets: the checks before reading, and small ones in memory.

Nothing here downloads: `tfds.load` without a network retries for minutes, so `open_builder` asks
`is_prepared()` first. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import functools
import logging

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from evonorm_jax.data.arrays import Arrays, check_bytes
from evonorm_jax.data.pipeline import Hosts
from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.data.tf_stream import Decoder
from evonorm_jax.display import WaitLog
from evonorm_jax.errors import UserError

logger = logging.getLogger(__name__)

ONE_PROCESS = Hosts()
MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


def open_builder(
    config: ml_collections.ConfigDict, *, evaluation_only: bool = False
) -> tfds.core.DatasetBuilder:
    """Returns the builder of a set that is prepared on this machine.

    Raises:
      UserError: The name is unknown, the set is not prepared, it is no labelled image set, its
        format is one that tf.data cannot read, or a split is unknown.
    """
    builder = find_builder(config.name, config.path)
    if not builder.is_prepared():
        raise UserError(_not_prepared(builder))
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"'{builder.info.full_name}' in {builder.data_path} is prepared as"
            f" {file_format.value if file_format else 'an unknown format'}, which tf.data cannot"
            " read: prepare it as TFRecord in another folder,\n"
            f"  python -m experiments.prepare_data --dataset={builder.name}"
            " --data_dir=/other/folder"
        )
    whole = builder.info.features
    features = dict(whole.items()) if isinstance(whole, tfds.features.FeaturesDict) else {}
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        raise UserError(
            f"'{builder.info.full_name}' is no image classification set: it must have the features"
            f" 'image' and 'label', but has {', '.join(features) or 'none of them'}."
        )
    own_range(builder, config.eval_split)
    if not evaluation_only:
        own_range(builder, config.train_split)
    return builder


def find_builder(name: str, path: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of a set that TFDS knows, or that was prepared in `path`.

    Raises:
      UserError: There is none.
    """
    logging.getLogger("absl").addFilter(_without_missing_info)
    try:
        return tfds.builder(name, data_dir=path or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS knows no data set '{name}', and none of that name is prepared in"
            f" {path or tfds.core.constants.DATA_DIR}: check config.dataset.name and path, or take"
            " the source 'folder' or 'npz' for images of your own."
        ) from error


def own_range(builder: tfds.core.DatasetBuilder, split: str, hosts: Hosts = ONE_PROCESS) -> range:
    """Returns the records of a split, or of a part of one, that belong to this process.

    The parts of the processes are disjoint and complete; the first ones have one record more where
    the division leaves a remainder.

    Raises:
      UserError: The set has no such split.
    """
    name, *_ = parse_split(split)
    if name not in builder.info.splits:
        raise UserError(
            f"'{builder.info.full_name}' has no split '{name}': it has"
            f" {', '.join(builder.info.splits)}."
        )
    part = split_slice(split, builder.info.splits[name].num_examples)
    share, remainder = divmod(part.stop - part.start, hosts.process_count)
    start = part.start + hosts.process_index * share + min(hosts.process_index, remainder)
    return range(start, start + share + (hosts.process_index < remainder))


def range_split(split: str, part: range) -> str:
    """Returns TFDS's name for these records of a split."""
    return f"{parse_split(split)[0]}[{part.start}:{part.stop}]"


def load_tfds(config: ml_collections.ConfigDict, *, evaluation_only: bool = False) -> Arrays:
    """Reads the splits into memory; images of another size get the evaluation crop."""
    builder = open_builder(config, evaluation_only=evaluation_only)
    label = builder.info.features["label"]
    splits = [config.eval_split] if evaluation_only else [config.eval_split, config.train_split]
    number = sum(len(own_range(builder, split)) for split in splits)
    check_bytes(config, number)
    waiting = WaitLog(logger, f"Reading images of {config.name} into memory", number)
    decoder = Decoder(config, seed=0)

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = decoder.decode_eval(example["image"])
        return {"image": image, "label": tf.cast(example["label"], tf.int32)}

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        part = own_range(builder, split)
        examples = builder.as_dataset(
            split=range_split(split, part),
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, add_tfds_id=True),
        )
        batches, size = [], 1024
        decoded = decoder.batches(examples, decode, size)
        for first in range(0, len(part), size):
            with decoder.naming_broken(functools.partial(records, examples, first, size)):
                batches.append(next(decoded))
            waiting.add(len(batches[-1]["label"]))
        return (
            np.concatenate([batch["image"] for batch in batches]),
            np.concatenate([batch["label"] for batch in batches]),
        )

    eval_images, eval_labels = load(config.eval_split)
    train_images, train_labels = (
        (eval_images[:0], eval_labels[:0]) if evaluation_only else load(config.train_split)
    )
    return Arrays(
        train_images,
        train_labels,
        eval_images,
        eval_labels,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
    )


def records(examples: tf.data.Dataset, first: int, number: int) -> list[tuple[str, bytes]]:
    """The names and encoded images of some examples, for `Decoder.naming_broken`."""
    part = examples.skip(first).take(number).as_numpy_iterator()
    return [(example["tfds_id"].decode(), example["image"]) for example in part]


def data_dir(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the folder that holds `<name>[/<config>]/<version>`: what a user calls data_dir."""
    return str(builder.data_path).removesuffix(f"/{builder.info.full_name}")


def manual_files(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """Returns the files that the user must download before this set can be prepared."""
    return MANUAL_FILES.get(builder.name, ())


def _not_prepared(builder: tfds.core.DatasetBuilder) -> str:
    manual = " and ".join(manual_files(builder))
    return (
        f"Data set '{builder.name}' is not prepared in {data_dir(builder)} (looked for"
        f" {builder.info.full_name}).\n"
        "  prepare it (needs a network):  python -m experiments.prepare_data"
        f" --dataset={builder.name} [--data_dir=...]\n"
        + (f"  with these from image-net.org: {manual} in --manual_dir\n" if manual else "")
        + "  point to an existing copy:     --config.dataset.path=/path   (or TFDS_DATA_DIR)\n"
        "  run offline right now:         python -m experiments.train"
        " --config configs/digits_resnet_evonorm_s0.py"
    )


def _without_missing_info(record: logging.LogRecord) -> bool:
    """Drops TFDS's warning about the missing info file: our own message says it with the remedy."""
    return "has no dataset_info.json" not in record.getMessage()
