"""What a config stands for: data, model, optimizer and steps on the devices at hand.

`create_experiment` resolves and checks everything before anything is written; training
(`loop.py`) and `experiments.evaluate` start from it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn

from evonorm_jax.data import Pipeline, create_pipeline, prefetch_to_devices, steps_per_epoch
from evonorm_jax.errors import UserError
from evonorm_jax.layers import accepts_field, norm_act
from evonorm_jax.models import create_model
from evonorm_jax.training.durations import Durations, resolve_durations
from evonorm_jax.training.metrics import mean_metrics
from evonorm_jax.training.optimizer import create_optimizer, learning_rate_schedule
from evonorm_jax.training.parallel import DataParallel, WorkerLayout, layout_workers
from evonorm_jax.training.state import TrainState, create_train_state
from evonorm_jax.training.steps import Step, make_eval_step, make_train_step

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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

    def create_state(self) -> TrainState:
        """The state before the first step, from the seed."""
        # Drawing each kernel is code of its own, which XLA:CPU optimises for longer (11.5 s for a
        # ResNet-20 on a busy machine) than it takes to run unoptimised (1.9 s, compile included).
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return jax.jit(self._draw_state, compiler_options=options)()

    def state_shapes(self) -> TrainState:
        """Shapes and dtypes of the state, without computing it."""
        return jax.eval_shape(self._draw_state)

    def _draw_state(self) -> TrainState:
        return create_train_state(
            self.model,
            self.optimizer,
            self.pipeline.image_shape,
            seed=self.config.seed,
            use_ema=self.config.ema_decay > 0,
        )

    def train_step(self) -> Step:
        """The compiled training step; it takes over the memory of the state it is given."""
        step = make_train_step(
            self.model,
            self.optimizer,
            self.pipeline,
            seed=self.config.seed,
            per_device=self.layout.per_device,
            label_smoothing=self.config.label_smoothing,
            mixup_alpha=self.config.mixup_alpha,
            ema_decay=self.config.ema_decay,
            accumulation_steps=self.config.gradient_accumulation_steps,
        )
        return self.parallel.parallelize(step, donate_state=True)

    def eval_steps(self) -> dict[str, Step]:
        """The compiled evaluation steps by metric prefix: of the parameters, and of their EMA."""
        prefixes = {"eval": False} | ({"eval_ema": True} if self.config.ema_decay > 0 else {})
        return {
            prefix: self.parallel.parallelize(make_eval_step(self.model, self.pipeline, ema=ema))
            for prefix, ema in prefixes.items()
        }

    def evaluate(
        self, steps: dict[str, Step], state: TrainState, resident: Any
    ) -> dict[str, float]:
        """Metrics over the evaluation set, every example exactly once."""
        sums: dict[str, list[Any]] = {prefix: [] for prefix in steps}
        batches = self.pipeline.eval_batches(
            batch_size=self.config.eval_batch_size, hosts=self.parallel.hosts
        )
        with prefetch_to_devices(batches, self.parallel.shard) as device_batches:
            for batch in device_batches:
                for prefix, step in steps.items():
                    sums[prefix].append(step(state, resident, batch))
        means = (mean_metrics(batch_sums, prefix) for prefix, batch_sums in sums.items())
        return functools.reduce(lambda a, b: a | b, means)


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
    _check_step_fields(config, layout)
    for name in (
        "log_every_steps",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "eval_batch_size",
    ):
        if config[name] < 1:
            raise UserError(f"config.{name} is {config[name]}; it must be at least 1.")
    pipeline = create_pipeline(config.dataset, seed=config.seed)
    durations = resolve_durations(config, steps_per_epoch(pipeline, layout.batch_size))
    learning_rate = learning_rate_schedule(config, durations, layout.batch_size)
    return Experiment(
        config=config,
        parallel=parallel,
        pipeline=pipeline,
        layout=layout,
        durations=durations,
        model=_create_model(config, pipeline.num_classes, layout),
        learning_rate=learning_rate,
        optimizer=create_optimizer(config, learning_rate),
    )


def _create_model(
    config: ml_collections.ConfigDict, num_classes: int, layout: WorkerLayout
) -> nn.Module:
    """The network of a config, its layers told whose batch statistics belong together."""
    fields = config.model.norm_act_fields.to_dict()
    layer = norm_act(config.model.norm_act, **fields)
    for name in ("virtual_batch_size", "axis_name", "axis_index_groups"):
        if name in fields:
            raise UserError(
                f"config.model.norm_act_fields.{name} is set by the run itself: choose "
                "config.images_per_worker and config.num_workers, or config.sync_batch_stats."
            )
        value = getattr(layout, name)
        if value is not None and accepts_field(layer, name):
            layer = functools.partial(layer, **{name: value})
    depends_on_batch = accepts_field(layer, "virtual_batch_size")
    accumulation, virtual = config.gradient_accumulation_steps, layout.virtual_batch_size
    if accumulation > 1 and depends_on_batch:
        micro_batch = layout.per_device // accumulation
        if virtual is None or micro_batch % virtual:
            raise UserError(
                f"config.gradient_accumulation_steps={accumulation} would split the "
                f"{config.images_per_worker} images whose batch statistics {config.model.norm_act} "
                f"takes together ({layout.per_device} images per device). Use more workers of "
                "fewer images (config.num_workers, config.images_per_worker), or a layer without "
                "batch statistics such as evonorm_s0."
            )
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype={config.dtype!r}; choose one of {', '.join(DTYPES)}.")
    return create_model(
        config.model.name,
        num_classes=num_classes,
        norm_act=layer,
        dtype=DTYPES[config.dtype],
        **config.model.fields.to_dict(),
    )


def _check_step_fields(config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
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
    for name in ("label_smoothing", "ema_decay"):
        if not 0 <= config[name] < 1:
            raise UserError(f"config.{name}={config[name]}; it must be at least 0 and below 1.")
