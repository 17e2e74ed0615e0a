"""Objects in images: Mask R-CNN, trained on the sum of its five losses, judged by COCO's AP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data import Pipeline
from evonorm_jax.data.instances import InstancePipeline, create_instance_pipeline
from evonorm_jax.detection import Detections, MaskRCNN, Truth, create_detector, detection_losses
from evonorm_jax.detection.coco_evaluation import (
    Accumulated,
    accumulate_detections,
    check_max_dets,
)
from evonorm_jax.detection.coco_masks import import_faster_coco_eval
from evonorm_jax.detection.precision_recall import write_precision_recall
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics, instance_segmentation_metrics
from evonorm_jax.run_files import PRECISION_RECALL_FILE
from evonorm_jax.training.detection_pictures import write_pictures
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.init_backbone import read_detector_weights
from evonorm_jax.training.model import bind_layer, find_dtype
from evonorm_jax.training.parallel import AXIS, WorkerLayout, gather_rows, keys_at, positions
from evonorm_jax.training.saved_run import SavedRun
from evonorm_jax.training.state import (
    TrainState,
    evaluation_variables,
    replace_modules,
)
from evonorm_jax.training.steps import gradient_step
from evonorm_jax.training.tasks.base import Evaluated, Evaluation, InitialWeights
from evonorm_jax.training.tasks.supervised import SupervisedTask
from evonorm_jax.training.trained_detector import TrainedDetector

#: Images of the evaluation split that are drawn with what was found in them.
_PICTURES = 4


class InstanceSegmentation(SupervisedTask):
    """Trains a detector of `detection.create_detector`.

    Its config has, beside what the loop reads: `model` with the fields of `MaskRCNN` in
    `model.fields`, `optimizer`, `schedule`, `ema_decay`, `init_from`, `init_from_model` and
    `max_dets`, COCO's parameter of that name.

    Args:
      config: The resolved config.
      pipeline: Images with objects.
      layout: The workers on the devices; None in a task that only evaluates.
      durations: The length of the run in steps; None likewise.

    Raises:
      UserError: The config does not fit the data or the devices, or the `detection` extra is not
        installed.
    """

    pipeline: InstancePipeline
    model: MaskRCNN
    remedy = (
        "Try a lower config.optimizer.learning_rate_per_256, a longer "
        "config.schedule.warmup_epochs, or config.optimizer.gradient_clip_norm."
    )

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        pipeline: Pipeline,
        layout: WorkerLayout | None = None,
        durations: Durations | None = None,
    ):
        import_faster_coco_eval()  # what is missing must not be found out after an epoch
        model = build_detector(config, pipeline.num_classes, layout)
        _check_image_size(config, model)
        super().__init__(config, pipeline, layout, durations, model=model)
        self._pictured: dict[str, dict[str, np.ndarray]] = {}
        self._accumulated: dict[str, list[Accumulated]] = {}

    @classmethod
    def check(cls, config: ml_collections.ConfigDict, layout: WorkerLayout) -> None:
        """Refuses values of the detector's own fields, and a missing `detection` extra."""
        import_faster_coco_eval()
        check_max_dets(config.max_dets, "config.max_dets")

    @classmethod
    def create_pipeline(
        cls, config: ml_collections.ConfigDict, *, evaluation_only: bool = False
    ) -> InstancePipeline:
        """Opens images with objects."""
        return create_instance_pipeline(
            config.dataset, seed=config.seed, evaluation_only=evaluation_only
        )

    @property
    def metrics(self) -> RunMetrics:
        """AP of boxes and masks; averaged weights are what a run that keeps them is judged by."""
        return instance_segmentation_metrics(self.config.max_dets, ema=self._use_ema)

    def classes(self) -> dict[str, Any]:
        """Names and category ids of the classes, and what evaluations do to images."""
        config, pipeline = self.config, self.pipeline
        return {
            "class_names": list(pipeline.class_names),
            "category_ids": list(pipeline.category_ids),
            "dtype": config.dtype,
            "image_size": config.dataset.image_size,
            "mean": list(map(float, config.dataset.mean)),
            "std": list(map(float, config.dataset.std)),
        }

    @classmethod
    def trained_run(cls, saved: SavedRun) -> TrainedDetector:
        """Makes the detector of a run ready to use."""
        return TrainedDetector(saved, build_detector)

    def initial_weights(self) -> InitialWeights | None:
        """Reads `config.init_from`."""
        shapes = jax.eval_shape(self._draw_variables, 0, {})
        return read_detector_weights(self.config, self.model, shapes)

    def _draw_variables(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> dict[str, Any]:
        images = jnp.zeros((1, *self.pipeline.image_shape), jnp.float32)
        return replace_modules(self.model.init(jax.random.key(seed), images), weights)

    def train_step(
        self, state: TrainState, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes one update.

        What is random, in the images and in the anchors and regions that are drawn, derives from
        the key of the step and the position in the global batch.
        """
        data_key, sample_key = jax.random.split(key)
        assert self.layout is not None
        places = positions(self.layout.per_device)
        examples = self.pipeline.train_examples(resident, batch, keys_at(data_key, places))
        examples["key"] = keys_at(sample_key, places)
        return gradient_step(
            state,
            self._loss,
            examples,
            key,
            optimizer=self.optimizer,
            ema_decay=self.config.ema_decay,
        )

    def _loss(
        self, variables: Mapping[str, Any], examples: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, Any], dict[str, Any]]]:
        """The sum of the five losses, and each of them."""
        del key  # every example has its own
        outputs, collections = self.model.apply(
            variables,
            examples["image"],
            Truth(examples["boxes"], examples["classes"], examples["masks"]),
            examples["key"],
            examples["valid_size"],
            method=MaskRCNN.training_outputs,
            mutable=[name for name in variables if name != "params"],
        )
        losses = detection_losses(outputs, AXIS)
        named = {f"{name}_loss": value for name, value in losses.items()}
        return sum(losses.values(), jnp.zeros(())), (dict(collections), named)

    def _evaluation(self, part: str, ema: bool) -> Evaluation:
        def step(state: TrainState, resident: Any, batch: Any) -> Evaluated:
            examples = self.pipeline.eval_examples(resident, batch)
            variables = evaluation_variables(state, ema=ema)
            found = self.model.apply(variables, examples["image"], examples["valid_size"])
            detections = cast(Detections, found)._asdict()
            rows = {name: examples[name] for name in ("index", "scale", "mask")}
            return Evaluated({}, gather_rows({**detections, **rows}))

        def summarize(sums: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, float]:
            del sums
            first = np.argsort(rows["index"])[:_PICTURES]
            self._pictured[part] = {name: leaf[first] for name, leaf in rows.items()}
            self._accumulated[part] = accumulate_detections(
                self.pipeline.truth,
                rows,
                category_ids=self.pipeline.category_ids,
                max_dets=tuple(self.config.max_dets),
            )
            metrics: dict[str, float] = {"examples": len(rows["index"])}
            for accumulated in self._accumulated[part]:
                metrics |= accumulated.metrics()
            return metrics

        return Evaluation(step, summarize)

    def artifacts(self, step: int, state: TrainState, resident: Any, workdir: Path) -> None:
        """Writes what the evaluation has just found: pictures, and its precision over its recall.

        `pictures/STEP.png` shows the truth beside the detections; `precision_recall.csv` is of the
        newest evaluation, and of the averaged weights where the run keeps them.
        """
        del state, resident
        if jax.process_index() == 0:
            part, truth = self.metrics.main_part, self.pipeline.truth
            path = workdir / "pictures" / f"{step:07d}.png"
            write_pictures(path, self.pipeline, self._pictured[part])
            names = {record["id"]: record.get("name", "") for record in truth["categories"]}
            write_precision_recall(workdir / PRECISION_RECALL_FILE, self._accumulated[part], names)


def build_detector(
    config: ml_collections.ConfigDict, num_classes: int, layout: WorkerLayout | None = None
) -> MaskRCNN:
    """Makes the detector of a config.

    Args:
      config: Its `model`, `dtype` and workers are read.
      num_classes: Classes with the background.
      layout: The workers in training; None for a network that only evaluates.

    Raises:
      UserError: There is no such network, layer, field or dtype, or the run sets a field itself.
    """
    return create_detector(
        config.model.name,
        num_classes=num_classes,
        norm_act=bind_layer(config, layout),
        dtype=find_dtype(config),
        **config.model.fields.to_dict(),
    )


def _check_image_size(config: ml_collections.ConfigDict, model: MaskRCNN) -> None:
    size, stride = config.dataset.image_size, 2**model.max_level
    if size % stride:
        raise UserError(
            f"config.dataset.image_size={size} is no multiple of {stride}, the stride of the "
            f"coarsest level of {config.model.name}: take {-(-size // stride) * stride}."
        )
