"""Weights of timm's networks, evaluated on the data set of a config."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonorm_jax.data import create_pipeline
from evonorm_jax.errors import UserError
from evonorm_jax.interop import create_timm_model, load_timm_weights
from evonorm_jax.training.config import check_config
from evonorm_jax.training.evaluation import evaluate
from evonorm_jax.training.model import find_dtype
from evonorm_jax.training.parallel import DataParallel
from evonorm_jax.training.state import create_train_state
from evonorm_jax.training.tasks.classification import Classification
from evonorm_jax.training.weights_input import describe_images, evaluate_as_weights

if TYPE_CHECKING:
    import ml_collections


def evaluate_weights(
    config: ml_collections.ConfigDict,
    path: str | Path,
    timm_name: str,
    typed: Collection[str] = (),
) -> dict[str, Any]:
    """Computes metrics of timm's or PyTorch's weights over the evaluation set of a config.

    Images are scaled and cut as timm evaluates these weights, where the name says which they are.

    Args:
      config: Its `dataset`, `dtype` and `eval_batch_size` are read; its model is not.
      path: A safetensors file.
      timm_name: Network that the file is of, one of `interop.timm_model_names()`, with the tag of
        the weights where it is known, such as "resnet50.a1_in1k".
      typed: Names of fields that a person has set on the command line, such as
        "dataset.image_size"; these stay.

    Returns:
      `weights` and `model` as given, `images` with their size, crop, mean and std, and the metrics
      by their full names.

    Raises:
      UserError: There is no such file or network, or it has other classes than the data set, or a
        field of the config breaks its rule.
    """
    check_config(config)
    variables = load_timm_weights(path, timm_name)
    config = evaluate_as_weights(config, timm_name, typed)
    pipeline = create_pipeline(config.dataset, seed=config.seed, evaluation_only=True)
    num_classes = variables["params"]["head"]["bias"].size
    if num_classes != pipeline.num_classes:
        raise UserError(
            f"{path} has {num_classes} classes, {config.dataset.name} {pipeline.num_classes}: "
            "evaluate it on the data set it was trained on, or fine-tune it with config.init_from."
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.ema_decay = 0.0  # the file has no averages
    model = create_timm_model(timm_name, num_classes, dtype=find_dtype(config))
    task = Classification(config, pipeline, model=model)
    metrics = evaluate(task, DataParallel(), create_train_state(variables, None))
    images = describe_images(config)
    return {"weights": str(path), "model": timm_name, "images": images, **metrics}
