"""From `config.dataset` to a `Pipeline`."""

from __future__ import annotations

import ml_collections

from evonorm_jax.data.arrays import fake_arrays, load_digits, load_npz
from evonorm_jax.data.config import check_fields
from evonorm_jax.data.folder import list_class_folder, load_class_folder
from evonorm_jax.data.in_memory import InMemoryPipeline
from evonorm_jax.data.pipeline import Pipeline
from evonorm_jax.data.streaming import FakeStream
from evonorm_jax.data.tf_import import require_tensorflow
from evonorm_jax.errors import UserError


def create_pipeline(config: ml_collections.ConfigDict, *, seed: int) -> Pipeline:
    """The data set that `config` describes, read where it is held in memory.

    >>> from evonorm_jax.data import dataset_config
    >>> create_pipeline(dataset_config("digits", "embedded"), seed=0).num_train_examples
    1437

    Args:
      config: `config.dataset`, see `dataset_config`.
      seed: of the order and the host's augmentation, 0 or more.

    Raises:
      UserError: for anything that is missing, or that does not fit the configuration.
    """
    check_fields(config)
    if not 0 <= seed < 2**63:
        raise UserError(f"The seed must lie in 0 ... 2**63 - 1, not {seed}.")
    pipeline = _in_memory(config, seed) if config.in_memory else _streaming(config, seed)
    _check_sizes(config, pipeline)
    return pipeline


def _in_memory(config: ml_collections.ConfigDict, seed: int) -> Pipeline:
    if config.randaugment_layers and config.source != "fake":
        raise UserError(
            f"config.dataset.randaugment_layers is {config.randaugment_layers}, but RandAugment"
            " works on streamed images only: set in_memory=False, or randaugment_layers=0."
        )
    if config.source == "embedded":
        arrays = load_digits(config)
    elif config.source == "npz":
        arrays = load_npz(config)
    elif config.source == "folder":
        arrays = load_class_folder(config)
    elif config.source == "tfds":
        require_tensorflow(purpose=f"Reading '{config.name}' from TFDS", tfds=True)
        from evonorm_jax.data.tfds_source import load_tfds

        arrays = load_tfds(config)
    else:
        arrays = fake_arrays(config, seed)
    return InMemoryPipeline(arrays, config, seed=seed)


def _streaming(config: ml_collections.ConfigDict, seed: int) -> Pipeline:
    if config.source == "fake":
        return FakeStream(config, seed=seed)
    if config.source == "folder":
        folder = list_class_folder(config)  # before TensorFlow: it may be what is missing
        require_tensorflow(purpose=f"Streaming '{config.name}'")
        from evonorm_jax.data.folder_stream import FolderStream

        return FolderStream(folder, config, seed=seed)
    if config.source == "tfds":
        require_tensorflow(purpose=f"Streaming '{config.name}' from TFDS", tfds=True)
        from evonorm_jax.data.tfds_source import open_builder
        from evonorm_jax.data.tfds_stream import TfdsStream

        return TfdsStream(open_builder(config), config, seed=seed)
    raise UserError(
        f"config.dataset.in_memory is False, but the source '{config.source}' is always held in"
        " memory: set in_memory=True."
    )


def _check_sizes(config: ml_collections.ConfigDict, pipeline: Pipeline) -> None:
    for field in ("num_classes", "num_train_examples", "num_eval_examples"):
        expected, found = config[field], getattr(pipeline, field)
        if expected and expected != found:
            raise UserError(
                f"config.dataset.{field} is {expected}, but '{config.name}' has {found}: set it to"
                " 0 to read it from the data."
            )
