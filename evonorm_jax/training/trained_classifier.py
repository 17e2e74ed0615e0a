"""The classifier of a run, ready to classify files, pictures and arrays."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import jax
import numpy as np
from PIL import Image

from evonorm_jax.data.preprocessing import Preprocessing
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CLASSES_FILE
from evonorm_jax.training.model import build_model
from evonorm_jax.training.saved_run import SavedRun
from evonorm_jax.training.trained_run import FilePrediction, TrainedRun

#: One or several files, pictures of Pillow, or an array `[N, H, W, C]`.
Images = str | Path | Image.Image | Sequence[str | Path | Image.Image] | np.ndarray | jax.Array


class Predictions(NamedTuple):
    """What a classifier says of N images.

    Attributes:
      probabilities: Probability of every class, `[N, K]` float32.
      top_classes: The k most probable classes, the best first, `[N, k]` int.
      top_probabilities: Their probabilities, `[N, k]` float32.
      top_names: Their names.
    """

    probabilities: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    top_names: list[list[str]]


class TrainedClassifier(TrainedRun):
    """The classifier of a run.

    Attributes:
      preprocessing: How images are prepared, which is how the run's evaluations prepared them.
      model: A module of Flax: `model.apply(variables, images, train=False)` takes prepared images
        `[N, H, W, C]` and returns logits `[N, K]`.
    """

    options: ClassVar[tuple[str, ...]] = ("top_k",)
    preprocessing: Preprocessing

    def __init__(self, saved: SavedRun):
        super().__init__(saved)
        record = saved.classes or {}
        if saved.classes is None:  # a run of before there was such a file
            self.preprocessing = Preprocessing.of_dataset(saved.config.dataset)
        else:
            self.preprocessing = Preprocessing.from_json(record, f"{saved.source}/{CLASSES_FILE}")
        num_classes = len(self.variables["params"]["head"]["bias"])
        names = record.get("class_names") or range(num_classes)
        if len(names) != num_classes:
            raise UserError(
                f"{saved.source}/{CLASSES_FILE} has {len(names)} names, but the network "
                f"{num_classes} classes: is it of another run?"
            )
        self.class_names = tuple(map(str, names))
        self.model = build_model(saved.config, num_classes)

    def predict(self, images: Images, *, top_k: int = 5, batch_size: int = 64) -> Predictions:
        """Classifies images.

        Args:
          images: One or several paths of files or pictures of Pillow; or an array `[N, H, W, C]` of
            pixel values from 0 to 255, uint8 or floating point, not normalised. All are cropped,
            resized and normalised as in evaluation. Arrays of the network's size, and they alone,
            are neither cropped nor resized.
          top_k: Number of classes in `top_classes`; all, where there are fewer.
          batch_size: Number of images that are in memory at the same time.

        Raises:
          UserError: A file cannot be read, or an array has another shape, dtype or range.
        """
        if top_k < 1:
            raise UserError(f"top_k={top_k}: it must be at least 1.")
        logits = self._apply(self._logits, images, batch_size)
        return self.ranked(logits, top_k)

    def ranked(self, logits: np.ndarray, top_k: int) -> Predictions:
        """Makes `Predictions` of logits `[N, K]`."""
        probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
        classes = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        return Predictions(
            probabilities,
            classes,
            np.take_along_axis(probabilities, classes, -1),
            [[self.class_names[label] for label in row] for row in classes],
        )

    def read(self, image: str | Path | Image.Image) -> np.ndarray:
        """Reads a file, or takes a picture of Pillow, as uint8 `[image_size, image_size, C]`.

        Raises:
          UserError: It cannot be read; the message names it.
        """
        return self.preprocessing.read(image)

    def describe(
        self,
        paths: Sequence[str],
        numbers: Sequence[int],
        images: list[np.ndarray],
        **options: Any,
    ) -> Iterator[FilePrediction]:
        """Ranks the classes of a batch of images that `read` has read."""
        del numbers
        found = self.predict(np.stack(images), batch_size=len(images), **options)
        for i, path in enumerate(paths):
            ranked = [
                {"class": name, "index": int(index), "probability": float(probability)}
                for name, index, probability in zip(
                    found.top_names[i],
                    found.top_classes[i],
                    found.top_probabilities[i],
                    strict=True,
                )
            ]
            rows = [{"file": path, "rank": n, **one} for n, one in enumerate(ranked, start=1)]
            yield FilePrediction(path, rows, [{"file": path, "predictions": ranked}])

    @functools.cached_property
    def _logits(self) -> Callable[[Mapping[str, Any], np.ndarray], jax.Array]:
        def logits(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
            prepared = self.preprocessing.normalize(images)
            return cast(jax.Array, self.model.apply(variables, prepared, train=False))

        return jax.jit(logits)

    @functools.cached_property
    def _device_variables(self) -> dict[str, Any]:
        return jax.device_put(self.variables)

    def _apply(
        self,
        function: Callable[[Mapping[str, Any], np.ndarray], jax.Array],
        images: Images,
        batch_size: int,
    ) -> np.ndarray:
        """Computes a function of prepared images, batch by batch."""
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: it must be at least 1.")
        results: list[np.ndarray] = []
        for batch in self._batches(images, batch_size):
            # Sizes are powers of two, so that few of them are compiled.
            size = 1 << (len(batch) - 1).bit_length()
            padding = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
            found = function(self._device_variables, np.concatenate([batch, padding]))
            results.append(np.asarray(found)[: len(batch)])
        if not results:
            raise UserError("There are no images: the list or array is empty.")
        return np.concatenate(results)

    def _batches(self, images: Images, batch_size: int) -> Iterator[np.ndarray]:
        """Yields prepared pixels `[n, image_size, image_size, C]`, at most `batch_size` of them."""
        if isinstance(images, np.ndarray | jax.Array):
            for first in range(0, len(images), batch_size):
                yield self.preprocessing.fit(np.asarray(images[first : first + batch_size]))
            return
        several = [images] if isinstance(images, str | Path | Image.Image) else images
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(several), batch_size):
                yield np.stack(list(pool.map(self.read, several[first : first + batch_size])))
