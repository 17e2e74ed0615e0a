"""Evaluation: of the state of a run, and of a checkpoint apart from training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from evonorm_jax.data import prefetch_to_devices
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.display import WaitLog
from evonorm_jax.interop.safetensors_file import check_finite
from evonorm_jax.training.best import find_best_step
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.config import check_config
from evonorm_jax.training.parallel import DataParallel
from evonorm_jax.training.run_directory import check_classes
from evonorm_jax.training.tasks import Evaluated, State, Task, find_task

if TYPE_CHECKING:
    import ml_collections


logger = logging.getLogger(__name__)


class Evaluator:
    """Evaluates states of one task.

    Args:
      task: What is evaluated.
      parallel: The devices.
      batch_size: Global batch, at most; the result does not depend on it. A split that is smaller
        is one batch, without padding to this size.
    """

    def __init__(self, task: Task, parallel: DataParallel, batch_size: int):
        self._parallel = parallel
        self._batch_size = batch_size
        self._pipeline = task.pipeline
        self._evaluations = dict(task.evaluations)
        self._steps: dict[str, Callable[..., Evaluated]] = {}
        self._prepare: dict[str, Callable[..., State]] = {}
        # Evaluations of the same batches share one pass over them.
        self._passes: dict[Callable[..., Iterator[Batch]], list[str]] = {}
        for part, evaluation in self._evaluations.items():
            self._steps[part] = parallel.parallelize(evaluation.step)
            if evaluation.prepare is not None:
                self._prepare[part] = parallel.parallelize(evaluation.prepare)
            batches = evaluation.batches or task.pipeline.eval_batches
            self._passes.setdefault(batches, []).append(part)

    def __call__(
        self,
        state: State,
        resident: Any,
        report: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> dict[str, float]:
        """Computes the metrics over whole splits, every example exactly once.

        Args:
          state: The state, replicated.
          resident: What `Pipeline.resident` returned, replicated.
          report: Is told how many images are done and how many there are, where that is known.

        Returns:
          Metrics by their full names, such as `eval/examples`.
        """
        found: dict[str, dict[str, float]] = {}
        for batches, parts in self._passes.items():
            totals = self._run_pass(batches, parts, state, resident, report)
            for part, total in totals.items():
                summary = self._evaluations[part].summarize(total.sums, total.rows())
                found[part] = {f"{part}/{name}": value for name, value in summary.items()}
        return {name: value for part in self._steps for name, value in found[part].items()}

    def _run_pass(
        self,
        batches: Callable[..., Iterator[Batch]],
        parts: list[str],
        state: State,
        resident: Any,
        report: Callable[[int, int | None], None],
    ) -> dict[str, _Total]:
        """Evaluates what reads these batches."""
        default = batches == self._pipeline.eval_batches
        counts = [self._evaluations[part].num_examples for part in parts]
        total = self._pipeline.num_eval_examples if default else counts[0]
        batch_size = self._batch_size if total is None else min(self._batch_size, total)
        done = 0
        report(done, total)
        totals = {part: _Total() for part in parts}
        states: dict[str, State] = {}
        host_batches = batches(batch_size=batch_size, hosts=self._parallel.hosts)
        with prefetch_to_devices(host_batches, self._parallel.shard) as device_batches:
            for batch in device_batches:
                for part in parts:
                    if part not in states:
                        prepare = self._prepare.get(part)
                        states[part] = prepare(state, resident, batch) if prepare else state
                    totals[part].add(self._steps[part](states[part], resident, batch))
                done += batch_size
                report(done if total is None else min(done, total), total)
        for sums in totals.values():
            sums.finish()
        return totals


class _Total:
    """Adds up what the steps of one evaluation return, one batch behind the devices."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self._rows: dict[str, list[np.ndarray]] = {}
        self._pending: Evaluated | None = None

    def add(self, evaluated: Evaluated) -> None:
        """Takes the result of a step that may still be running."""
        self.finish()
        self._pending = evaluated

    def finish(self) -> None:
        """Waits for the last step."""
        if self._pending is None:
            return
        sums, rows = jax.device_get(self._pending)
        self._pending = None
        for name, value in sums.items():
            total = float(value) if np.ndim(value) == 0 else np.asarray(value, np.float64)
            self.sums[name] = self.sums.get(name, 0.0) + total
        counted = rows["mask"] > 0 if "mask" in rows else slice(None)
        for name, value in rows.items():
            if name != "mask":
                self._rows.setdefault(name, []).append(value[counted])

    def rows(self) -> dict[str, np.ndarray]:
        """Returns the rows of all batches that count."""
        return {name: np.concatenate(parts) for name, parts in self._rows.items()}


def evaluate_checkpoint(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    step: int | Literal["best"] | None = None,
    *,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on the evaluation set of its config.

    Neither the training split nor the devices of the run are needed.

    Args:
      config: Config of the run, possibly with other data or another `eval_batch_size`.
      workdir: The run directory; nothing in it is changed.
      step: Step of the checkpoint, or "best" for the one that was the best by the main metric while
        the run trained; the newest by default.
      output: Folder for what the task draws or writes of an evaluation; nothing by default.

    Returns:
      `step` and the metrics by their full names, such as `eval/examples`.

    Raises:
      UserError: There is no such checkpoint, it was not kept, it is of another model, its
        classes are not those of the data, or its weights are not finite; or a field of the config
        breaks its rule.
    """
    check_config(config)
    parallel = DataParallel()
    kind = find_task(config)
    task = kind(config, kind.create_pipeline(config, evaluation_only=True))
    check_classes(Path(workdir), task.classes())
    shapes = jax.eval_shape(task.draw_state, config.seed, {})
    with Checkpoints(Path(workdir), read_only=True) as checkpoints:
        if step == "best":
            step = find_best_step(Path(workdir), checkpoints.steps)
        state, _ = checkpoints.restore(shapes, step, leave_out=("opt_state",))
    _check_state(state, f"{workdir} at step {int(state.step)}")
    return {"step": int(state.step), **evaluate(task, parallel, state, output=output)}


def _check_state(state: State, source: str) -> None:
    """Refuses weights that are not finite: their metrics would be none."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    check_finite(
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in leaves
            if np.issubdtype(leaf.dtype, np.floating)
        },
        source,
    )


def evaluate(
    task: Task, parallel: DataParallel, state: State, *, output: str | Path | None = None
) -> dict[str, float]:
    """Evaluates a state that lies on the host, in batches of `config.eval_batch_size`.

    Args:
      task: What is evaluated.
      parallel: The devices.
      state: The state.
      output: Folder for the task's `artifacts`; none by default.
    """
    evaluator = Evaluator(task, parallel, task.config.eval_batch_size)
    step = int(state.step)
    state, resident = parallel.replicate(state), parallel.replicate(task.pipeline.resident())
    waiting = WaitLog(logger, "Evaluating images", task.pipeline.num_eval_examples)
    metrics = evaluator(state, resident, lambda done, total: waiting.reach(done))
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
        task.artifacts(step, state, resident, Path(output))
    return metrics
