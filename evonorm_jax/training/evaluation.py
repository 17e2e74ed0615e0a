"""Evaluating a checkpoint on a data set, apart from training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_collections

from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment


def evaluate_checkpoint(
    config: ml_collections.ConfigDict, workdir: str | Path, step: int | None = None
) -> dict[str, Any]:
    """Metrics of a run's checkpoint over the evaluation set of its config.

    Args:
      config: of the run, possibly with other data or another `eval_batch_size`.
      workdir: the run directory; nothing in it is changed.
      step: which checkpoint; the newest by default.

    Returns:
      `step`, `eval/top1`, `eval/loss`, `eval/examples`, ..., and `eval_ema/...` of runs with EMA.

    Raises:
      UserError: where there is no such checkpoint, or it is of another model.
    """
    run = create_experiment(config)
    with Checkpoints(Path(workdir), read_only=True) as checkpoints:
        state, _ = checkpoints.restore(run.state_shapes(), step)
    metrics = run.evaluate(
        run.eval_steps(),
        run.parallel.replicate(state),
        run.parallel.replicate(run.pipeline.resident()),
    )
    return {"step": int(state.step), **metrics}
