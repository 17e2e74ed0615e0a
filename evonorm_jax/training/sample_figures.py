"""Figures of generated images against the data set of a config: `config.figures`.

network      what sees the images: "digits", a classifier of `experiments.export`
             (.npz), FID's Inception network of `experiments.convert_inception` (.safetensors), or
             "" for no figures
num_samples  how many images are drawn
reference    the split they are compared with: "train" or "eval"
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data import Hosts, Pipeline, create_pipeline
from evonorm_jax.errors import UserError
from evonorm_jax.gan.classifier_file import DIGITS_CLASSIFIER, read_classifier
from evonorm_jax.gan.features import FeatureNetwork, Features, inception_features
from evonorm_jax.gan.images import to_uint8
from evonorm_jax.gan.report import Figure, measure

REFERENCES = ("train", "eval")

_BATCH_SIZE = 256  # images of the data set at once


def find_network(name: str) -> FeatureNetwork:
    """Reads a feature network by what `config.figures.network` calls it.

    Raises:
      UserError: There is none, or the file holds another one.
    """
    if name == "digits":
        return read_classifier(DIGITS_CLASSIFIER)
    if name.endswith(".npz"):
        return read_classifier(name)
    if name.endswith(".safetensors"):
        from evonorm_jax.interop.inception import load_inception_weights

        return inception_features(load_inception_weights(name), Path(name).name)
    raise UserError(
        f"config.figures.network={name!r}: it must be 'digits', a .npz file of "
        "experiments.export, a .safetensors file of experiments.convert_inception, or "
        "empty."
    )


class SampleFigures:
    """The figures of one config; the data set is read when the first samples come.

    Attributes:
      network: Network that computes the features of the images.
      num_samples: Number of samples to draw.

    Args:
      config: Config of the run; `figures`, `dataset` and `seed` are read.
      pipeline: Pipeline of the data set, which tells the shape and the classes of its images.

    Raises:
      UserError: The network does not fit the images, or there are fewer samples than features.
    """

    def __init__(self, config: ml_collections.ConfigDict, pipeline: Pipeline):
        figures = config.figures
        if figures.reference not in REFERENCES:
            raise UserError(
                f"config.figures.reference={figures.reference!r}; choose one of "
                f"{', '.join(REFERENCES)}."
            )
        self.network = find_network(figures.network)
        self.num_samples = figures.num_samples
        self._config = config
        self._check_network(pipeline)

    @property
    def main_name(self) -> str:
        """Name of the figure that a generator is judged by."""
        return "fid" if self.network.kind == "inception" else "classifier_fid"

    def measure(self, images: np.ndarray, labels: np.ndarray) -> list[Figure]:
        """Computes all figures of samples.

        Args:
          images: Samples, `[N, H, W, C]`, uint8.
          labels: Classes that they were drawn for, `[N]` integers.
        """
        reference, held_out = self._real_features
        return measure(
            self.network(images, labels),
            reference,
            held_out,
            reference_name=self._split(self._config.figures.reference),
        )

    @functools.cached_property
    def _real_features(self) -> tuple[Features, Features | None]:
        """Features of the reference and, where that is the training split, of the other split."""
        evaluation = self._features(self._split("eval"))
        if self._config.figures.reference == "eval":
            return evaluation, None
        return self._features(self._split("train")), evaluation

    def _split(self, name: str) -> str:
        return self._config.dataset[f"{name}_split"]

    def _features(self, split: str) -> Features:
        images, labels = real_images(self._config, split)
        return self.network(images, labels)

    def _check_network(self, pipeline: Pipeline) -> None:
        name, shape = self._config.figures.network, pipeline.image_shape
        images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
        try:
            values, logits = jax.eval_shape(self.network.function, self.network.variables, images)
        except UserError:
            raise
        except Exception as error:  # whatever a network says to images of another shape
            raise UserError(
                f"config.figures.network={name!r} does not take images of shape {shape}: name a "
                "network that was trained on this data set."
            ) from error
        if self.network.kind == "classifier" and logits.shape[-1] != pipeline.num_classes:
            raise UserError(
                f"config.figures.network={name!r} knows {logits.shape[-1]} classes, but "
                f"{self._config.dataset.name} has {pipeline.num_classes}: name a network that was "
                "trained on this data set."
            )
        if self.num_samples <= values.shape[-1]:
            raise UserError(
                f"config.figures.num_samples={self.num_samples} is not more than the "
                f"{values.shape[-1]} features of {name!r}: with so few samples the Frechet "
                "distance says little. Take more; 50,000 is the custom for FID."
            )


def real_images(config: ml_collections.ConfigDict, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads all images of a split as the evaluation sees them, without augmentation.

    Args:
      config: Config of the run; `dataset` and `seed` are read.
      split: Name of the split, such as `config.dataset.train_split`.

    Returns:
      Images `[N, H, W, C]`, uint8, and labels `[N]`.
    """
    dataset = config.dataset.copy_and_resolve_references()
    with dataset.unlocked():
        dataset.eval_split, dataset.num_eval_examples = split, 0
        if dataset.source == "fake":  # which has no splits
            dataset.num_eval_examples = config.dataset.num_eval_examples
    pipeline = create_pipeline(dataset, seed=config.seed, evaluation_only=True)
    resident = jax.device_put(pipeline.resident())

    @jax.jit
    def examples(resident: Any, batch: Any) -> Any:
        found = pipeline.eval_examples(resident, batch)
        return to_uint8(found["image"]), found["label"]

    images, labels = [], []
    for batch in pipeline.eval_batches(batch_size=_BATCH_SIZE, hosts=Hosts()):
        local = {name: leaf[0] for name, leaf in batch.items()}
        counted = local["mask"] > 0
        found = examples(resident, local)
        images.append(np.asarray(found[0])[counted])
        labels.append(np.asarray(found[1])[counted])
    return np.concatenate(images), np.concatenate(labels)
