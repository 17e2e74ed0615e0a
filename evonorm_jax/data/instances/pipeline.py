"""What the training of a detector needs from a data set, and sets that are held in memory.

The promises of `evonorm_jax.data.pipeline` hold. On the way to the network every picture lies at
the top left of a square canvas; the truth that average precision is measured by never does: it is
COCO's JSON of the evaluation split, with every crowd and in pixels of the files.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data import augment as image_augment
from evonorm_jax.data.instances import augment
from evonorm_jax.data.pipeline import Batch, Hosts, Pipeline, eval_indices, train_positions

#: Of an example: what evaluation reads, and what training reads besides.
PICTURE = ("image", "valid_size", "scale")
OBJECTS = ("boxes", "classes", "masks")


class InstancePipeline(Pipeline):
    """A data set of images with objects.

    Training examples have `image` `[b, S, S, 3]` float32, normalised, 0 outside the picture,
    `valid_size` `[b, 2]` int32, and `boxes`, `classes` and `masks` of `evonorm_jax.detection.Truth`
    (masks uint8). Evaluation examples have `image`, `valid_size`, `scale` `[b]` float32, canvas
    pixels to a pixel of the file, `index` `[b]` int32 into the images of `truth`, and `mask`.

    Attributes:
      num_classes: Classes with the background, which is class 0.
      class_names: Names by class, the background's included.
      category_ids: COCO's category id of the classes 1, 2, ...
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __init__(self, config: ml_collections.ConfigDict, *, seed: int) -> None:
        self.image_shape = (config.image_size, config.image_size, 3)
        self._config = config
        self._seed = seed
        self._normalize = functools.partial(
            image_augment.normalize, mean=tuple(config.mean), std=tuple(config.std)
        )
        self._augment = functools.partial(
            augment.augment, flip=config.flip, scale_jitter=tuple(config.scale_jitter)
        )

    @property
    @abc.abstractmethod
    def truth(self) -> dict[str, Any]:
        """COCO's JSON of the evaluation split: `images`, `annotations` and `categories`."""

    @abc.abstractmethod
    def eval_picture(self, index: int) -> np.ndarray:
        """Returns a picture of the evaluation split as it lies on the canvas, without padding.

        Args:
          index: Place in the images of `truth`.

        Returns:
          `[h, w, 3]` uint8.
        """

    def resident(self) -> Batch:
        return {}

    def train_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        draw_keys, augment_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        drawn = self._draw_examples(resident, batch, draw_keys)
        examples = jax.vmap(self._augment)(
            augment_keys, {**drawn, "image": drawn["image"].astype(jnp.float32)}
        )
        return {**examples, "image": self._on_canvas(examples["image"], examples["valid_size"])}

    def eval_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        examples = self._eval_pictures(resident, batch)
        return {
            "image": self._on_canvas(examples["image"], examples["valid_size"]),
            "valid_size": examples["valid_size"],
            "scale": examples["scale"],
            "index": batch["index"],
            "mask": batch["mask"].astype(jnp.float32),
        }

    @abc.abstractmethod
    def _draw_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        """`image`, `valid_size` and the objects of one device's batch, before augmentation."""

    @abc.abstractmethod
    def _eval_pictures(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """`image`, `valid_size` and `scale` of one device's evaluation batch."""

    def _on_canvas(self, images: jax.Array, valid_sizes: jax.Array) -> jax.Array:
        """Normalises pictures; the padding is 0 then, as the network takes it for no picture."""
        return jax.vmap(augment.clear_padding)(self._normalize(images), valid_sizes)


class ResidentInstances(InstancePipeline):
    """Both splits on every device; the host sends indices alone.

    Args:
      config: `config.dataset`.
      seed: Seed of the order.
      train: Arrays of `examples.make_example`, stacked; None in a pipeline for evaluation only.
      evaluation: Likewise, at least those of `examples.fit_image`.
      truth: Makes COCO's JSON of the evaluation split, once, when it is asked for.
      class_names: Names by class, the background's included.
      category_ids: Category ids of the classes 1, 2, ...
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        *,
        seed: int,
        train: Batch | None,
        evaluation: Batch,
        truth: Callable[[], dict[str, Any]],
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
    ) -> None:
        super().__init__(config, seed=seed)
        self._train, self._evaluation, self._make_truth = train, evaluation, truth
        self.num_train_examples = 0 if train is None else len(train["image"])
        self.num_eval_examples = len(evaluation["image"])
        self.class_names, self.category_ids = class_names, category_ids
        self.num_classes = len(class_names)

    @functools.cached_property
    def truth(self) -> dict[str, Any]:
        return self._make_truth()

    def eval_picture(self, index: int) -> np.ndarray:
        height, width = self._evaluation["valid_size"][index]
        return self._evaluation["image"][index, :height, :width]

    def resident(self) -> Batch:
        arrays = {f"eval_{name}": self._evaluation[name] for name in PICTURE}
        if self._train is not None:
            names = [name for name in (*PICTURE, *OBJECTS) if name != "scale"]
            arrays |= {f"train_{name}": self._train[name] for name in names}
        return arrays

    def train_batches(self, *, start_step: int, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"index": int32}`."""
        order = train_positions(
            self.num_train_examples,
            self._seed,
            start_step=start_step,
            batch_size=batch_size,
            hosts=hosts,
        )
        for indices, _ in order:
            yield hosts.shard({"index": indices.astype(np.int32)})

    def eval_batches(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Yields `{"index": int32, "mask": float32}`; padding has index 0."""
        for indices, mask in eval_indices(self.num_eval_examples, batch_size, hosts):
            yield hosts.shard({"index": indices, "mask": mask})

    def _draw_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        del keys  # nothing but the augmentation is random
        names = ("image", "valid_size", *OBJECTS)
        rows = {name: resident[f"train_{name}"][batch["index"]] for name in names}
        return {**rows, "masks": jnp.unpackbits(rows["masks"], axis=-1)}

    def _eval_pictures(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        return {name: resident[f"eval_{name}"][batch["index"]] for name in PICTURE}


def stack(examples: list[Batch]) -> Batch:
    """Puts examples into arrays `[N, ...]`."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
