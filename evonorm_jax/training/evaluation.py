"""Evaluation: of the state of a run, of a checkpoint apart from training, of timm's weights."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.data import Pipeline, create_pipeline, prefetch_to_devices
from evonorm_jax.errors import UserError
from evonorm_jax.interop import create_timm_model, load_timm_weights
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.metrics import mean_metrics
from evonorm_jax.training.model import build_model, find_dtype
from evonorm_jax.training.parallel import DataParallel
from evonorm_jax.training.state import TrainState, initial_variables
from evonorm_jax.training.steps import Step, make_eval_step

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates states of one model on one data set.

    Attributes:
      pipeline: its evaluation split is read.
      parallel: the devices.
      batch_size: global; the result does not depend on it.
      steps: compiled evaluation steps by metric prefix.
    """

    pipeline: Pipeline
    parallel: DataParallel
    batch_size: int
    steps: dict[str, Step]

    def __call__(self, state: TrainState, resident: Any) -> dict[str, float]:
        """Metrics over the evaluation split, every example exactly once.

        Args:
          state: replicated.
          resident: what `pipeline.resident` returned, replicated.
        """
        sums: dict[str, list[Any]] = {prefix: [] for prefix in self.steps}
        batches = self.pipeline.eval_batches(batch_size=self.batch_size, hosts=self.parallel.hosts)
        with prefetch_to_devices(batches, self.parallel.shard) as device_batches:
            for batch in device_batches:
                for prefix, step in self.steps.items():
                    sums[prefix].append(step(state, resident, batch))
        means = (mean_metrics(batch_sums, prefix) for prefix, batch_sums in sums.items())
        return functools.reduce(lambda a, b: a | b, means)


def create_evaluator(
    config: ml_collections.ConfigDict, model: nn.Module, pipeline: Pipeline, parallel: DataParallel
) -> Evaluator:
    """The evaluation of a config: of the parameters, and of their EMA where there is one."""
    prefixes = {"eval": False} | ({"eval_ema": True} if config.ema_decay > 0 else {})
    steps = {
        prefix: parallel.parallelize(make_eval_step(model, pipeline, ema=ema))
        for prefix, ema in prefixes.items()
    }
    return Evaluator(pipeline, parallel, config.eval_batch_size, steps)


def evaluate_weights(
    config: ml_collections.ConfigDict, path: str | Path, timm_name: str
) -> dict[str, Any]:
    """Metrics of timm's or PyTorch's weights over the evaluation set of a config.

    Args:
      config: its `dataset`, `dtype` and `eval_batch_size` are read; its model is not.
      path: a safetensors file.
      timm_name: the network that the file is of, one of `interop.timm_model_names()`.

    Returns:
      `weights` and `model` as given, `eval/top1`, `eval/loss`, `eval/examples`, ...

    Raises:
      UserError: where there is no such file or network, or it has other classes than the data set.
    """
    parallel = DataParallel()
    variables = load_timm_weights(path, timm_name)
    pipeline = create_pipeline(config.dataset, seed=config.seed, evaluation_only=True)
    num_classes = variables["params"]["head"]["bias"].size
    if num_classes != pipeline.num_classes:
        raise UserError(
            f"{path} has {num_classes} classes, {config.dataset.name} {pipeline.num_classes}: "
            "evaluate it on the data set it was trained on, or fine-tune it with config.init_from."
        )
    model = create_timm_model(timm_name, num_classes, dtype=find_dtype(config))
    state = TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
        ema={},
    )
    steps = {"eval": parallel.parallelize(make_eval_step(model, pipeline))}
    evaluator = Evaluator(pipeline, parallel, config.eval_batch_size, steps)
    metrics = evaluator(parallel.replicate(state), parallel.replicate(pipeline.resident()))
    return {"weights": str(path), "model": timm_name, **metrics}


def evaluate_checkpoint(
    config: ml_collections.ConfigDict, workdir: str | Path, step: int | None = None
) -> dict[str, Any]:
    """Metrics of a run's checkpoint over the evaluation set of its config.

    Neither the training split nor the devices of the run are needed.

    Args:
      config: of the run, possibly with other data or another `eval_batch_size`.
      workdir: the run directory; nothing in it is changed.
      step: which checkpoint; the newest by default.

    Returns:
      `step`, `eval/top1`, `eval/loss`, `eval/examples`, ..., and `eval_ema/...` of runs with EMA.

    Raises:
      UserError: where there is no such checkpoint, or it is of another model.
    """
    parallel = DataParallel()
    pipeline = create_pipeline(config.dataset, seed=config.seed, evaluation_only=True)
    model = build_model(config, pipeline.num_classes)
    variables = jax.eval_shape(
        lambda: initial_variables(
            model, pipeline.image_shape, seed=config.seed, use_ema=config.ema_decay > 0
        )
    )
    with Checkpoints(Path(workdir), read_only=True) as checkpoints:
        step, restored = checkpoints.restore_variables(variables, step)
    state = TrainState(step=jnp.int32(step), opt_state=(), **restored)
    evaluator = create_evaluator(config, model, pipeline, parallel)
    metrics = evaluator(parallel.replicate(state), parallel.replicate(pipeline.resident()))
    return {"step": step, **metrics}
