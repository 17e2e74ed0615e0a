"""Weights of timm's networks, evaluated on the data set of a config."""

from __future__ import annotations

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

if TYPE_CHECKING:
    import ml_collections


def evaluate_weights(
    config: ml_collections.ConfigDict, path: str | Path, timm_name: str
) -> dict[str, Any]:
    """Computes metrics of timm's or PyTorch's weights over the evaluation set of a config.

    Args:
      config: Its `dataset`, `dtype` and `eval_batch_size` are read; its model is not.
      path: A safetensors file.
      timm_name: Network that the file is of, one of `interop.timm_model_names()`.

    Returns:
      `weights` and `model` as given, and the metrics by their full names.

    Raises:
      UserError: There is no such file or network, or it has other classes than the data set, or a
        field of the config breaks its rule.
    """
    check_config(config)
    variables = load_timm_weights(path, timm_name)
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
    return {"weights": str(path), "model": timm_name, **metrics}
