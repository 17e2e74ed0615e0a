"""Turns `config.dataset` into an `InstancePipeline`."""

from __future__ import annotations

import concurrent.futures
import os

import ml_collections

from evonorm_jax.data.arrays import MAX_BYTES
from evonorm_jax.data.create import check_sizes
from evonorm_jax.data.instances.coco_json import (
    CocoFolder,
    CocoImage,
    list_coco_folder,
    read_pixels,
)
from evonorm_jax.data.instances.coco_stream import CocoStream
from evonorm_jax.data.instances.config import check_instance_fields
from evonorm_jax.data.instances.digit_scenes import DigitScenes
from evonorm_jax.data.instances.examples import fit_image, make_example
from evonorm_jax.data.instances.nuclei import Nuclei
from evonorm_jax.data.instances.pipeline import InstancePipeline, ResidentInstances, stack
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.errors import UserError

_EMBEDDED = {"nuclei256": Nuclei}
_GENERATED = {"digit_scenes": DigitScenes}


def create_instance_pipeline(
    config: ml_collections.ConfigDict, *, seed: int, evaluation_only: bool = False
) -> InstancePipeline:
    """Opens the data set that `config` describes, and reads it where it is held in memory.

    >>> from evonorm_jax.data.instances import instance_dataset_config
    >>> config = instance_dataset_config("nuclei256", "embedded", train_split="train[:2]")
    >>> create_instance_pipeline(config, seed=0).num_train_examples
    2

    Args:
      config: The section `config.dataset`, see `instance_dataset_config`.
      seed: Seed of the order, 0 or more.
      evaluation_only: Whether the training split is left unread, so that it need not be there. Then
        `num_train_examples` is 0.

    Raises:
      UserError: Something is missing, or does not fit the configuration.
    """
    check_instance_fields(config)
    if config.source == "coco_json":
        folder = list_coco_folder(config, evaluation_only=evaluation_only)
        pipeline: InstancePipeline = (
            _read_folder(folder, config, seed)
            if config.in_memory
            else CocoStream(folder, config, seed=seed)
        )
    else:
        table = _EMBEDDED if config.source == "embedded" else _GENERATED
        if config.name not in table:
            raise UserError(
                f"No data set '{config.name}' is {config.source}: there is {', '.join(table)}. "
                "Take the source 'coco_json' for a folder."
            )
        pipeline = table[config.name](config, seed=seed, evaluation_only=evaluation_only)
    check_sizes(config, pipeline, evaluation_only)
    return pipeline


def _read_folder(
    folder: CocoFolder, config: ml_collections.ConfigDict, seed: int
) -> ResidentInstances:
    """Reads a COCO folder into memory, as many threads as there are processors."""
    train = folder.train.images if folder.train else ()
    size = (len(train) + len(folder.eval.images)) * 3 * config.image_size**2
    if size > MAX_BYTES:
        raise UserError(
            f"'{config.name}' takes {size / 2**30:.0f} GiB on every device as images of "
            f"{config.image_size} pixels: set config.dataset.in_memory=False to read them as "
            "training goes on."
        )

    def read(image: CocoImage) -> Batch:
        pixels = read_pixels(image, upright=config.exif_orientation)
        return make_example(pixels, image.instances, config)

    def read_picture(image: CocoImage) -> Batch:
        return fit_image(read_pixels(image, upright=config.exif_orientation), config.image_size)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return ResidentInstances(
            config,
            seed=seed,
            train=stack(list(pool.map(read, train))) if train else None,
            evaluation=stack(list(pool.map(read_picture, folder.eval.images))),
            truth=lambda: folder.eval.truth,
            class_names=folder.class_names,
            category_ids=folder.category_ids,
        )
