"""What a config stands for on the devices at hand: data, task, and its compiled steps.

`create_experiment` resolves and checks everything before anything is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from evonorm_jax.data import Pipeline, steps_per_epoch
from evonorm_jax.errors import UserError
from evonorm_jax.training.config import check_config
from evonorm_jax.training.durations import Durations, resolve_durations
from evonorm_jax.training.evaluation import Evaluator
from evonorm_jax.training.fit_to_data import fit_image_size, fit_to_data, fits_to_data
from evonorm_jax.training.parallel import DataParallel, WorkerLayout, layout_workers
from evonorm_jax.training.steps import step_key
from evonorm_jax.training.tasks import State, Task, find_task
from evonorm_jax.training.writers import find_writers

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a config stands for on the devices at hand; nothing is on disk yet.

    Attributes:
      config: The resolved config.
      parallel: The devices.
      pipeline: The data set.
      layout: The workers on the devices.
      durations: The length of the run in steps.
      task: What is trained.
      notes: What to tell the user of the choices that were left to the data.
    """

    config: ml_collections.ConfigDict
    parallel: DataParallel
    pipeline: Pipeline
    layout: WorkerLayout
    durations: Durations
    task: Task
    notes: Sequence[str] = ()

    @property
    def images_per_step(self) -> int:
        """Images that one step takes from the pipeline, over all devices."""
        return self.layout.batch_size * self.task.batches_per_step(self.config)

    def create_state(self, weights: Mapping[str, Any] | None = None) -> State:
        """Draws the state before the first step.

        Args:
          weights: Variables that take the place of drawn ones.
        """
        # Drawing each kernel is code of its own, which XLA:CPU optimises for longer (11.5 s for a
        # ResNet-20 on a busy machine) than it takes to run unoptimised (1.9 s, compile included).
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        draw = jax.jit(self.task.draw_state, compiler_options=options)
        return draw(self._seed, weights or {})

    def state_shapes(self) -> State:
        """Returns shapes and dtypes of the state, without computing it."""
        return jax.eval_shape(self.task.draw_state, self._seed, {})

    @property
    def _seed(self) -> np.uint32:
        """The seed as an argument of what is compiled, not a constant in it.

        Runs that differ in their seed alone then find each other's programs in the compile cache:
        4 of the 12 s that a short run on the digits takes.
        """
        return np.uint32(self.config.seed % 2**32)

    def train_step(self) -> Callable[[State, Any, Any], tuple[State, dict[str, jax.Array]]]:
        """Compiles the training step; it takes over the memory of the state it is given."""
        mapped, seed = self._mapped_step()
        return lambda state, resident, batch: mapped(state, (seed, resident), batch)

    def compile_train_step(
        self, state: State, resident: Any, batch: Any
    ) -> tuple[Callable[[State, Any, Any], tuple[State, dict[str, jax.Array]]], Any]:
        """Compiles the training step ahead of time for arguments like these.

        Returns:
          The step, as `train_step` returns it, and the compiled program, which knows its memory.
        """
        mapped, seed = self._mapped_step()
        program = mapped.lower(state, (seed, resident), batch).compile()
        return lambda state, resident, batch: program(state, (seed, resident), batch), program

    def _mapped_step(self) -> tuple[Any, jax.Array]:
        """The step of the task on the devices, and the seed that it takes beside its data."""

        def step(state: State, constants: tuple[jax.Array, Any], batch: Any) -> Any:
            seed, resident = constants
            return self.task.train_step(state, resident, batch, step_key(seed, state.step))

        mapped = self.parallel.parallelize(step, donate_state=True)
        return mapped, self.parallel.replicate(self._seed)

    def evaluator(self) -> Evaluator:
        """Compiles the evaluations."""
        return Evaluator(self.task, self.parallel, self.config.eval_batch_size)


def create_experiment(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """Resolves a config: finds task and data, lays the workers, checks that all fit.

    Args:
      config: The resolved config.
      devices: Devices to train on; all there are by default.

    Raises:
      UserError: Something in the config cannot be.
    """
    check_config(config)
    find_writers(config)  # a class that is not there is said before anything is computed
    if config.profile_steps and config.profile_start_step < 1:
        raise UserError(
            f"config.profile_start_step is {config.profile_start_step}; steps count from 1, and "
            "step 1 compiles: take 10, for example."
        )
    parallel = DataParallel(devices)
    task, pipeline = find_task(config), None
    notes: list[str] = []
    if fits_to_data(config):
        config, size_notes = fit_image_size(config)  # which the images are read in
        pipeline = task.create_pipeline(config)
        config, notes = fit_to_data(
            config,
            pipeline.num_train_examples // task.batches_per_step(config),
            len(parallel.devices),
        )
        notes = [*size_notes, *notes]
    layout = layout_workers(
        config.num_workers,
        config.images_per_worker,
        len(parallel.devices),
        sync_batch_stats=config.sync_batch_stats,
    )
    task.check(config, layout)
    pipeline = pipeline or task.create_pipeline(config)
    images_per_step = layout.batch_size * task.batches_per_step(config)
    durations = resolve_durations(config, steps_per_epoch(pipeline, images_per_step))
    experiment = Experiment(
        config=config,
        parallel=parallel,
        pipeline=pipeline,
        layout=layout,
        durations=durations,
        task=task(config, pipeline, layout, durations),
        notes=notes,
    )
    experiment.state_shapes()  # what only the network can find wrong, it finds while tracing
    return experiment
