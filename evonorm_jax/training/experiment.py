"""What a config stands for: data, model, optimizer and steps on the devices at hand.

`create_experiment` resolves and checks everything before anything is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from flax import linen as nn

from evonorm_jax.data import Pipeline, create_pipeline, steps_per_epoch
from evonorm_jax.errors import UserError
from evonorm_jax.training.durations import Durations, resolve_durations
from evonorm_jax.training.evaluation import Evaluator, create_evaluator
from evonorm_jax.training.model import build_model
from evonorm_jax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    peak_learning_rate,
)
from evonorm_jax.training.parallel import DataParallel, WorkerLayout, layout_workers
from evonorm_jax.training.state import TrainState, create_train_state, initial_variables
from evonorm_jax.training.steps import Step, make_train_step

if TYPE_CHECKING:
    import ml_collections

_AT_LEAST_ONE = ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "eval_batch_size")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a config stands for on the devices at hand; nothing is on disk yet."""

    config: ml_collections.ConfigDict
    parallel: DataParallel
    pipeline: Pipeline
    layout: WorkerLayout
    durations: Durations
    model: nn.Module
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up."""
        return peak_learning_rate(self.config, self.layout.batch_size)

    def create_state(self, weights: dict[str, Any] | None = None) -> TrainState:
        """The state before the first step, from the seed but for the weights that are given.

        Args:
          weights: modules of `params` and `batch_stats` that take the place of drawn ones.
        """
        # Drawing each kernel is code of its own, which XLA:CPU optimises for longer (11.5 s for a
        # ResNet-20 on a busy machine) than it takes to run unoptimised (1.9 s, compile included).
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return jax.jit(self._draw_state, compiler_options=options)(self._seed, weights or {})

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of the state, without computing it."""
        return jax.eval_shape(self._draw_state, self._seed, {})

    @property
    def _seed(self) -> np.uint32:
        """The seed as an argument of what is compiled, not a constant in it.

        Runs that differ in their seed alone then find each other's programs in the compile cache:
        4 of the 12 s that a short run on the digits takes.
        """
        return np.uint32(self.config.seed % 2**32)

    def _draw_state(self, seed: jax.Array, weights: dict[str, Any]) -> TrainState:
        variables = initial_variables(
            self.model,
            self.pipeline.image_shape,
            seed=seed,
            use_ema=self.config.ema_decay > 0,
            weights=weights,
        )
        return create_train_state(self.optimizer, variables)

    def train_step(self) -> Step:
        """The compiled training step; it takes over the memory of the state it is given."""

        def step_of_seed(state: TrainState, constants: tuple[jax.Array, Any], batch: Any) -> Any:
            seed, resident = constants
            step = make_train_step(
                self.model,
                self.optimizer,
                self.pipeline,
                seed=seed,
                per_device=self.layout.per_device,
                label_smoothing=self.config.label_smoothing,
                mixup_alpha=self.config.mixup_alpha,
                ema_decay=self.config.ema_decay,
                accumulation_steps=self.config.gradient_accumulation_steps,
            )
            return step(state, resident, batch)

        mapped = self.parallel.parallelize(step_of_seed, donate_state=True)
        seed = self.parallel.replicate(self._seed)
        return lambda state, resident, batch: mapped(state, (seed, resident), batch)

    def evaluator(self) -> Evaluator:
        """The compiled evaluation."""
        return create_evaluator(self.config, self.model, self.pipeline, self.parallel)


def create_experiment(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """Resolves a config: finds the data, builds model and optimizer, checks that all fit.

    Raises:
      UserError: for anything in the config that cannot be.
    """
    parallel = DataParallel(devices)
    layout = layout_workers(
        config.num_workers,
        config.images_per_worker,
        len(parallel.devices),
        sync_batch_stats=config.sync_batch_stats,
    )
    _check_fields(config, layout)
    pipeline = create_pipeline(config.dataset, seed=config.seed)
    durations = resolve_durations(config, steps_per_epoch(pipeline, layout.batch_size))
    learning_rate = learning_rate_schedule(config, durations, layout.batch_size)
    experiment = Experiment(
        config=config,
        parallel=parallel,
        pipeline=pipeline,
        layout=layout,
        durations=durations,
        model=build_model(config, pipeline.num_classes, layout),
        learning_rate=learning_rate,
        optimizer=create_optimizer(config, learning_rate),
    )
    experiment.state_shapes()  # what only the network can find wrong, it finds while tracing
    return experiment


def _check_fields(config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
    for name in _AT_LEAST_ONE:
        if config[name] < 1:
            raise UserError(f"config.{name} is {config[name]}; it must be at least 1.")
    for name in ("label_smoothing", "ema_decay"):
        if not 0 <= config[name] < 1:
            raise UserError(f"config.{name}={config[name]}; it must be at least 0 and below 1.")
    accumulation = config.gradient_accumulation_steps
    if accumulation < 1 or layout.per_device % accumulation:
        raise UserError(
            f"config.gradient_accumulation_steps={accumulation} does not divide the "
            f"{layout.per_device} images of a device; choose a divisor of it."
        )
    if config.mixup_alpha < 0 or (config.mixup_alpha > 0 and layout.per_device % 2):
        raise UserError(
            f"config.mixup_alpha={config.mixup_alpha} with {layout.per_device} images per device: "
            "alpha must be at least 0, and mixup pairs neighbours, so the images of a device must "
            "be an even number."
        )
    if config.profile_steps and config.profile_start_step < 1:
        raise UserError(
            f"config.profile_start_step is {config.profile_start_step}; steps count from 1, and "
            "step 1 compiles: take 10, for example."
        )
