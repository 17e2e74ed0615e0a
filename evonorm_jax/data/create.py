"""Turns `config.dataset` into a `Pipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evonorm_jax.data.arrays import fake_arrays, load_digits, load_npz
from evonorm_jax.data.config import check_fields
from evonorm_jax.data.folder import list_class_folder, load_class_folder
from evonorm_jax.data.in_memory import InMemoryPipeline
from evonorm_jax.data.pipeline import Pipeline
from evonorm_jax.data.streaming import FakeStream
from evonorm_jax.data.tf_import import require_tensorflow
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def create_pipeline(
    config: ml_collections.ConfigDict, *, seed: int, evaluation_only: bool = False
) -> Pipeline:
    """Opens the data set that `config` describes, and reads it where it is held in memory.

    >>> from evonorm_jax.data import dataset_config
    >>> create_pipeline(dataset_config("digits", "embedded"), seed=0).num_train_examples
    1437

    Args:
      config: The section `config.dataset`, see `dataset_config`.
      seed: Seed of the order and of the host's augmentation, 0 or more.
      evaluation_only: Whether the training split is left unread, so that it need not be there. Then
        `num_train_examples` is 0, a class folder's names come from its evaluation split, and asking
        for training batches raises `UserError`.

    Raises:
      UserError: Something is missing, or does not fit the configuration.
    """
    check_fields(config)
    if not 0 <= seed < 2**63:
        raise UserError(f"The seed must lie in 0 ... 2**63 - 1, not {seed}.")
    create = _in_memory if config.in_memory else _streaming
    pipeline = create(config, seed, evaluation_only)
    check_sizes(config, pipeline, evaluation_only)
    return pipeline


def _in_memory(config: ml_collections.ConfigDict, seed: int, evaluation_only: bool) -> Pipeline:
    for field, name in (("randaugment_layers", "RandAugment"), ("autoaugment", "AutoAugment")):
        if config[field] and config.source != "fake":
            raise UserError(
                f"config.dataset.{field} is {config[field]}, but {name} works on streamed images"
                f" only: set in_memory=False, or {field}={type(config[field])()}."
            )
    if config.source == "embedded":
        arrays = load_digits(config, evaluation_only=evaluation_only)
    elif config.source == "npz":
        arrays = load_npz(config, evaluation_only=evaluation_only)
    elif config.source == "folder":
        arrays = load_class_folder(config, evaluation_only=evaluation_only)
    elif config.source == "tfds":
        require_tensorflow(purpose=f"Reading '{config.name}' from TFDS", tfds=True)
        from evonorm_jax.data.tfds_source import load_tfds

        arrays = load_tfds(config, evaluation_only=evaluation_only)
    else:
        arrays = fake_arrays(config, seed, evaluation_only=evaluation_only)
    return InMemoryPipeline(arrays, config, seed=seed)


def _streaming(config: ml_collections.ConfigDict, seed: int, evaluation_only: bool) -> Pipeline:
    if config.source == "fake":
        return FakeStream(config, seed=seed, evaluation_only=evaluation_only)
    if config.source == "folder":
        # Before TensorFlow: it may be what is missing.
        folder = list_class_folder(config, evaluation_only=evaluation_only)
        require_tensorflow(
            purpose=f"Streaming '{config.name}'", instead="--config.dataset.in_memory=True"
        )
        from evonorm_jax.data.folder_stream import FolderStream

        return FolderStream(folder, config, seed=seed)
    if config.source == "tfds":
        require_tensorflow(purpose=f"Streaming '{config.name}' from TFDS", tfds=True)
        from evonorm_jax.data.tfds_source import open_builder
        from evonorm_jax.data.tfds_stream import TfdsStream

        builder = open_builder(config, evaluation_only=evaluation_only)
        return TfdsStream(builder, config, seed=seed, evaluation_only=evaluation_only)
    raise UserError(
        f"config.dataset.in_memory is False, but the source '{config.source}' is always held in"
        " memory: set in_memory=True."
    )


def check_sizes(
    config: ml_collections.ConfigDict, pipeline: Pipeline, evaluation_only: bool
) -> None:
    """Raises `UserError` unless the sizes that the config states are those of the data."""
    fields = ["num_classes", "num_eval_examples"]
    for field in fields if evaluation_only else [*fields, "num_train_examples"]:
        expected, found = config[field], getattr(pipeline, field)
        if expected and expected != found:
            raise UserError(
                f"config.dataset.{field} is {expected}, but '{config.name}' has {found}: set it to"
                " 0 to read it from the data."
            )
