"""A task of another kind than classification: predicts how much ink an image has."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from evonorm_jax.metrics import Metric, RunMetrics
from evonorm_jax.training.parallel import AXIS, gather_rows, keys_at, positions
from evonorm_jax.training.state import create_train_state, evaluation_variables
from evonorm_jax.training.steps import gradient_step
from evonorm_jax.training.tasks import Evaluated, Evaluation, Task

KNOWN = {"error": Metric("median squared error", "ink²", short="error")}


class Regression(Task):
    metrics = RunMetrics("eval/error", ("loss", "error"), KNOWN)
    peak_rates = {"pen_rate": 0.05}  # noqa: RUF012
    model, optimizer = nn.Dense(1), optax.sgd(0.05)

    def rates(self, step):
        return {"pen_rate": 0.05}

    def headline(self):
        return "a line through ink"

    def draw_state(self, seed, weights):
        pixels = jnp.zeros((1, *self.pipeline.image_shape)).reshape(1, -1)
        variables = self.model.init(jax.random.key(seed), pixels)
        return create_train_state(variables, self.optimizer if self.layout else None)

    def errors(self, variables, examples):
        ink = examples["image"].mean((1, 2, 3))
        pixels = examples["image"].reshape(len(ink), -1)
        return (self.model.apply(variables, pixels)[:, 0] - ink) ** 2

    def loss(self, variables, examples, key):
        return self.errors(variables, examples).mean(), ({}, {})

    def train_step(self, state, resident, batch, key):
        keys = keys_at(key, positions(self.layout.per_device))
        examples = self.pipeline.train_examples(resident, batch, keys)
        return gradient_step(state, self.loss, examples, key, optimizer=self.optimizer)

    def eval_step(self, state, resident, batch):
        examples = self.pipeline.eval_examples(resident, batch)
        errors, mask = self.errors(evaluation_variables(state), examples), examples["mask"]
        count = jax.lax.psum(mask.sum(), AXIS)
        return Evaluated({"count": count}, gather_rows({"error": errors, "mask": mask}))

    @property
    def evaluations(self):
        return {"eval": Evaluation(self.eval_step, summarize)}


def summarize(sums, rows):
    return {"error": float(jnp.median(rows["error"])), "examples": int(sums["count"])}
