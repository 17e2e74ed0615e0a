"""What those tasks share that train one network on labelled examples, with one optimizer."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import optax
from flax import linen as nn

from evonorm_jax.data import Pipeline
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    peak_learning_rate,
)
from evonorm_jax.training.parallel import WorkerLayout
from evonorm_jax.training.state import TrainState, create_train_state
from evonorm_jax.training.tasks.base import Evaluation, Task

if TYPE_CHECKING:
    import ml_collections


class SupervisedTask(Task):
    """Trains a network by `config.optimizer`, `config.schedule` and `config.ema_decay`.

    Args:
      config: The resolved config.
      pipeline: Labelled examples.
      layout: The workers on the devices; None in a task that only evaluates.
      durations: The length of the run in steps; None likewise.
      model: The network.

    Raises:
      UserError: There is no such optimizer or schedule, or a value of theirs cannot be.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        pipeline: Pipeline,
        layout: WorkerLayout | None = None,
        durations: Durations | None = None,
        *,
        model: nn.Module,
    ):
        super().__init__(config, pipeline, layout, durations)
        self.model = model
        self.optimizer: optax.GradientTransformation | None = None
        self._use_ema = config.ema_decay > 0
        if layout is None or durations is None:
            return
        self._peak = peak_learning_rate(config.optimizer, layout.batch_size)
        self.learning_rate = learning_rate_schedule(config.schedule, self._peak, durations)
        self.optimizer = create_optimizer(config.optimizer, self.learning_rate)

    @property
    def peak_rates(self) -> dict[str, float]:
        """The learning rate after the warm-up."""
        return {"learning_rate": self._peak}

    def rates(self, step: int) -> dict[str, float]:
        """Returns the learning rate of the update after `step` updates."""
        return {"learning_rate": float(self.learning_rate(step))}

    def headline(self) -> str:
        """Names the network, its layer, and what of it is frozen."""
        frozen = ", ".join(self.config.optimizer.frozen_paths)
        name = f"{self.config.model.name} with {self.config.model.norm_act}"
        return f"{name} ({frozen} frozen)" if frozen else name

    def draw_state(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> TrainState:
        """Draws the variables of the network but for those that are given."""
        variables = self._draw_variables(seed, weights)
        return create_train_state(variables, self.optimizer, use_ema=self._use_ema)

    @abc.abstractmethod
    def _draw_variables(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the variables of the network: drawn ones, and in place of some the weights."""

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluation of the newest weights, and of their averages where there are any."""
        averages = {"eval": False} | ({"eval_ema": True} if self._use_ema else {})
        return {part: self._evaluation(part, ema) for part, ema in averages.items()}

    @abc.abstractmethod
    def _evaluation(self, part: str, ema: bool) -> Evaluation:
        """Returns the evaluation of the newest weights or of their averages.

        Args:
          part: The part of its metrics' names.
          ema: Whether it is of the averages.
        """
