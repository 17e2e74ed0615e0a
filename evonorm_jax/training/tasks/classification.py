"""Images into classes: cross-entropy, label smoothing, mixing, top-1 and top-5 accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from evonorm_jax.data import Pipeline
from evonorm_jax.data.augment import random_erasing
from evonorm_jax.data.preprocessing import Preprocessing
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import CLASSIFICATION, CLASSIFICATION_EMA, RunMetrics
from evonorm_jax.models.classification import cross_entropy, in_top, predicted_classes
from evonorm_jax.training.class_report import write_class_report
from evonorm_jax.training.class_weights import check_class_weights, find_class_weights
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.init_from import read_initial_weights
from evonorm_jax.training.mixing import mix
from evonorm_jax.training.model import build_model
from evonorm_jax.training.parallel import AXIS, WorkerLayout, gather_rows, keys_at, positions
from evonorm_jax.training.parameter_paths import stop_frozen
from evonorm_jax.training.saved_run import SavedRun
from evonorm_jax.training.state import (
    TrainState,
    evaluation_variables,
    initial_variables,
)
from evonorm_jax.training.steps import gradient_step
from evonorm_jax.training.tasks.base import Evaluated, Evaluation, InitialWeights, means
from evonorm_jax.training.tasks.supervised import SupervisedTask
from evonorm_jax.training.trained_classifier import TrainedClassifier

if TYPE_CHECKING:
    import ml_collections


class Classification(SupervisedTask):
    """Trains an image classifier of `models.create_model`.

    Args:
      config: The resolved config.
      pipeline: Images with one class each.
      layout: The workers on the devices; None in a task that only evaluates.
      durations: The length of the run in steps; None likewise.
      model: Takes the place of the network that the config describes.

    Raises:
      UserError: The config does not fit the data or the devices.
    """

    remedy = (
        "Try a lower config.optimizer.learning_rate_per_256, a longer "
        "config.schedule.warmup_epochs, a larger epsilon in config.model.norm_act_fields, or "
        "config.optimizer.gradient_clip_norm."
    )

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        pipeline: Pipeline,
        layout: WorkerLayout | None = None,
        durations: Durations | None = None,
        *,
        model: nn.Module | None = None,
    ):
        model = model or build_model(config, pipeline.num_classes, layout)
        super().__init__(config, pipeline, layout, durations, model=model)
        self._evaluated: dict[str, dict[str, np.ndarray]] = {}  # rows, by the part of the metrics
        if layout is None or self.optimizer is None:
            return
        self._step = make_train_step(
            self.model,
            self.optimizer,
            pipeline,
            per_device=layout.per_device,
            label_smoothing=config.label_smoothing,
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            erasing_probability=config.random_erasing,
            class_weights=find_class_weights(config, pipeline),
            ema_decay=config.ema_decay,
            accumulation_steps=config.gradient_accumulation_steps,
            constant=functools.partial(stop_frozen, config.optimizer),
        )

    @classmethod
    def check(cls, config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
        """Refuses values of the classifier's own fields."""
        accumulation = config.gradient_accumulation_steps
        if layout.per_device % accumulation:
            raise UserError(
                f"config.gradient_accumulation_steps={accumulation} does not divide the "
                f"{layout.per_device} images of a device; choose a divisor of it."
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            if config[name] > 0 and layout.per_device % 2:
                raise UserError(
                    f"config.{name}={config[name]} with {layout.per_device} images per device: "
                    "neighbours are mixed in pairs, so the images of a device must be an even "
                    "number."
                )
        check_class_weights(config)

    @property
    def metrics(self) -> RunMetrics:
        """Loss and accuracies; averaged weights are what a run that keeps them is judged by."""
        return CLASSIFICATION_EMA if self._use_ema else CLASSIFICATION

    def classes(self) -> dict[str, Any]:
        """Names of the classes, and what evaluations do to images."""
        return {
            "class_names": list(self.pipeline.class_names) if self.pipeline.class_names else None,
            "num_classes": self.pipeline.num_classes,
            "dtype": self.config.dtype,
            **Preprocessing.of_dataset(self.config.dataset).to_json(),
        }

    @classmethod
    def trained_run(cls, saved: SavedRun) -> TrainedClassifier:
        """Makes the classifier of a run ready to use."""
        return TrainedClassifier(saved)

    def initial_weights(self) -> InitialWeights | None:
        """Reads `config.init_from`; a head for other classes stays new."""
        shapes = jax.eval_shape(self._draw_variables, 0, {})
        names = self.pipeline.class_names
        return read_initial_weights(self.config, self.model, shapes, names)

    def _draw_variables(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> dict[str, Any]:
        shape = self.pipeline.image_shape
        return initial_variables(self.model, shape, seed=seed, weights=weights)

    def train_step(
        self, state: TrainState, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes the step of `make_train_step`."""
        return self._step(state, resident, batch, key)

    def _evaluation(self, part: str, ema: bool) -> Evaluation:
        def summarize(sums: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, float]:
            self._evaluated[part] = rows
            return means(sums, rows)

        return Evaluation(make_eval_step(self.model, self.pipeline, ema=ema), summarize)

    def artifacts(self, step: int, state: TrainState, resident: Any, workdir: Path) -> None:
        """Writes tables of the newest evaluation: the accuracy of each class, and the confusion.

        They are of the averaged weights where the run keeps them.
        """
        del step, state, resident
        if jax.process_index() == 0:
            rows = self._evaluated[self.metrics.main_part]
            names = self.pipeline.class_names or range(self.pipeline.num_classes)
            write_class_report(workdir, rows["label"], rows["prediction"], [str(n) for n in names])


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    pipeline: Pipeline,
    *,
    per_device: int,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    erasing_probability: float = 0.0,
    class_weights: np.ndarray | None = None,
    ema_decay: float = 0.0,
    accumulation_steps: int = 1,
    constant: Callable[[Any], Any] = lambda params: params,
) -> Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, resident, batch, key) -> (state, metrics)`.

    All randomness derives from the key of the step and the position in the global batch, so that a
    batch is augmented, mixed and dropped from the same on one device as on eight.

    Args:
      model: Called as `model.apply(variables, images, train=True, ...)`.
      optimizer: Applied to the gradient averaged over all devices.
      pipeline: Turns a batch into normalised, augmented images inside the step.
      per_device: Images of a device's share.
      label_smoothing: Probability spread evenly over all classes.
      mixup_alpha: Parameter of mixup's Beta distribution; 0 turns it off.
      cutmix_alpha: Parameter of CutMix's Beta distribution; 0 turns it off.
      erasing_probability: Probability that a rectangle of an image is erased.
      class_weights: `[K]`; the term of each class in the cross-entropy is multiplied by its own.
      ema_decay: Decay of the averages of parameters and statistics; 0 turns them off.
      accumulation_steps: Micro-batches that one update is computed in.
      constant: Stops the gradient of those parameters that are frozen.

    Returns:
      The step. Its metrics are means over the global batch: `loss` (nats), `top1`, `grad_norm`.
    """

    def loss_fn(
        variables: Mapping[str, Any], examples: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, Any], dict[str, Any]]]:
        logits, collections = model.apply(
            {**variables, "params": constant(variables["params"])},
            examples["image"],
            train=True,
            mutable=[name for name in variables if name != "params"],
            rngs={"dropout": key},
        )
        weighted = examples["target"] * (1.0 if class_weights is None else class_weights)
        loss = jnp.mean(cross_entropy(logits, weighted))
        hits = in_top(logits, jnp.argmax(examples["target"], -1))
        return loss, (dict(collections), {"top1": jnp.mean(hits.astype(jnp.float32))})

    def step(
        state: TrainState, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, mix_key, dropout_key, erasing_key = jax.random.split(key, 4)
        places = positions(per_device)
        examples = pipeline.train_examples(resident, batch, keys_at(augment_key, places))
        images = examples["image"]
        targets = jax.nn.one_hot(examples["label"], pipeline.num_classes)
        if erasing_probability > 0:
            erase = functools.partial(random_erasing, probability=erasing_probability)
            images = jax.vmap(erase)(keys_at(erasing_key, places), images)
        images, targets = mix(
            mix_key, images, targets, places, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha
        )
        if label_smoothing > 0:
            targets = optax.smooth_labels(targets, label_smoothing)
        return gradient_step(
            state,
            loss_fn,
            {"image": images, "target": targets},
            dropout_key,
            optimizer=optimizer,
            ema_decay=ema_decay,
            accumulation_steps=accumulation_steps,
        )

    return step


def make_eval_step(
    model: nn.Module, pipeline: Pipeline, *, ema: bool = False
) -> Callable[[TrainState, Any, Any], Evaluated]:
    """Builds `step(state, resident, batch) -> Evaluated`.

    It returns the sums of `classification_sums` and, for each example, `label` and `prediction`.
    """

    def step(state: TrainState, resident: Any, batch: Any) -> Evaluated:
        examples = pipeline.eval_examples(resident, batch)
        variables = evaluation_variables(state, ema=ema)
        logits = cast(jax.Array, model.apply(variables, examples["image"], train=False))
        sums = classification_sums(logits, examples["label"], examples["mask"])
        rows = {
            "label": examples["label"],
            "prediction": predicted_classes(logits, examples["label"]),
            "mask": examples["mask"],
        }
        return Evaluated(jax.lax.psum(sums, AXIS), gather_rows(rows))

    return step


def classification_sums(
    logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums loss, top-1 and top-5 hits over the examples whose mask is 1, and counts them.

    Examples whose mask is 0 add exactly nothing, not even when their logits are not finite.

    Args:
      logits: `[N, K]`.
      labels: `[N]` integers.
      mask: `[N]`, 1 for an example that counts, 0 for padding.

    Returns:
      Scalars `loss` (nats), `top1`, `count` and, for more than five classes, `top5`.
    """
    num_classes = logits.shape[-1]
    counted = mask > 0

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(counted, values, 0).astype(jnp.float32))

    sums = {
        "loss": total(cross_entropy(logits, jax.nn.one_hot(labels, num_classes))),
        "top1": total(in_top(logits, labels, 1)),
        "count": total(mask),
    }
    if num_classes > 5:
        sums["top5"] = total(in_top(logits, labels, 5))
    return sums
