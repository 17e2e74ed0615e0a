"""Digits on noise, drawn on the device: endless images with exact masks, and nothing to download.

A scene has one to M of the embedded 8x8 digits, each scaled to a side of its own and put somewhere,
later ones over earlier ones. A training scene is a pure function of the key of its place in the
run; the evaluation scenes are the same in every run, of digits that training does not see.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from evonorm_jax.data import dataset_config
from evonorm_jax.data.arrays import MAX_BYTES, load_digits
from evonorm_jax.data.instances.masks import coco_truth
from evonorm_jax.data.instances.pipeline import ResidentInstances
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.detection.targets import crop_mask
from evonorm_jax.errors import UserError

CLASS_NAMES = ("background", *map(str, range(10)))

#: A pixel is the digit's where its ink, 0 to 1, exceeds this.
_INK = 0.4
#: A digit of which fewer pixels are visible is no object.
_MIN_PIXELS = 24
#: What a pixel of an evaluation scene takes: three colours, and the number of its digit.
_PIXEL_BYTES = 7
#: Seed of the evaluation scenes, and how many are drawn at once.
_EVAL_SEED, _EVAL_BATCH = 20, 50


class DigitScenes(ResidentInstances):
    """Scenes drawn in the compiled step; those of evaluation are drawn once, when it is opened."""

    def __init__(
        self, config: ml_collections.ConfigDict, *, seed: int, evaluation_only: bool = False
    ) -> None:
        sizes = config.num_train_examples, config.num_eval_examples
        if min(sizes) < 1 or config.path:
            raise UserError(
                "The scenes are generated: config.dataset.num_train_examples and num_eval_examples "
                f"are {sizes[0]} and {sizes[1]} and must be 1 or more, and config.dataset.path is "
                f"{config.path!r} and must be empty."
            )
        if (size := sizes[1] * config.image_size**2 * _PIXEL_BYTES) > MAX_BYTES:
            raise UserError(
                f"{sizes[1]:,} scenes of {config.image_size} pixels to evaluate on take "
                f"{size / 2**30:,.0f} GiB: lower config.dataset.num_eval_examples or image_size."
            )
        digits = load_digits(dataset_config("digits", "embedded"))
        self._digits = digits.train_images[..., 0], digits.train_labels
        self._draw = functools.partial(
            draw_scene,
            size=config.image_size,
            max_digits=config.max_instances,
            digit_sizes=tuple(config.digit_sizes),
        )
        evaluation, owners, labels = self._eval_scenes(
            digits.eval_images[..., 0], digits.eval_labels, config.num_eval_examples
        )
        super().__init__(
            config,
            seed=seed,
            train=None,
            evaluation=evaluation,
            truth=lambda: coco_truth(_objects(owners, labels), CLASS_NAMES),
            class_names=CLASS_NAMES,
            category_ids=tuple(range(1, 11)),
        )
        self.num_train_examples = 0 if evaluation_only else config.num_train_examples

    def resident(self) -> Batch:
        images, labels = self._digits
        return {**super().resident(), "digit_images": images, "digit_labels": labels}

    def _draw_examples(
        self, resident: dict[str, jax.Array], batch: dict[str, jax.Array], keys: jax.Array
    ) -> dict[str, jax.Array]:
        del batch  # the keys say all
        digits = resident["digit_images"], resident["digit_labels"]
        size, side = self._config.image_size, self._config.mask_size

        def example(key: jax.Array) -> dict[str, jax.Array]:
            image, owner, labels = self._draw(key, *digits)
            boxes, classes, masks = objects_of(owner, labels, mask_size=side)
            valid_size = jnp.full((2,), size, jnp.int32)
            return {
                "image": image,
                "valid_size": valid_size,
                "boxes": boxes,
                "classes": classes,
                "masks": masks,
            }

        return jax.vmap(example)(keys)

    def _eval_scenes(
        self, images: np.ndarray, labels: np.ndarray, number: int
    ) -> tuple[Batch, np.ndarray, np.ndarray]:
        """Pictures, owners `[N, S, S]` and labels `[N, M]`."""
        digits = jnp.asarray(images), jnp.asarray(labels)

        @jax.jit
        def draw(first: int) -> tuple[jax.Array, jax.Array, jax.Array]:
            fold = functools.partial(jax.random.fold_in, jax.random.key(_EVAL_SEED))
            keys = jax.vmap(fold)(first + jnp.arange(_EVAL_BATCH))
            return jax.vmap(lambda key: self._draw(key, *digits))(keys)

        # As many at once as memory has room for, whatever their number.
        batches = [jax.device_get(draw(first)) for first in range(0, number, _EVAL_BATCH)]
        pictures, owners, found = (
            np.concatenate(parts)[:number] for parts in zip(*batches, strict=True)
        )
        valid_sizes = np.full((number, 2), pictures.shape[1], np.int32)
        evaluation = {
            "image": pictures,
            "valid_size": valid_sizes,
            "scale": np.ones(number, np.float32),
        }
        return evaluation, owners, found


def draw_scene(
    key: jax.Array,
    digits: jax.Array,
    labels: jax.Array,
    *,
    size: int,
    max_digits: int,
    digit_sizes: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws one scene.

    Args:
      key: Key of this scene alone.
      digits: `[N, 8, 8]` uint8.
      labels: `[N]` int32, 0 to 9.
      size: Side S of the scene, pixels.
      max_digits: M; a scene has 1 to M digits.
      digit_sizes: The smallest and the largest side of a digit, pixels.

    Returns:
      The image `[S, S, 3]` uint8, a map `[S, S]` int32 of the digit that a pixel belongs to, from 0
      on and -1 for none, and the class `[M]` int32 of each digit, 1 to 10, or 0 where there is none
      or too little of it is visible.
    """
    keys = jax.random.split(key, 6)
    count = jax.random.randint(keys[0], (), 1, max_digits + 1)
    which = jax.random.randint(keys[1], (max_digits,), 0, len(digits))
    sides = jax.random.uniform(keys[2], (max_digits,), minval=digit_sizes[0], maxval=digit_sizes[1])
    corners = jax.random.uniform(keys[3], (max_digits, 2)) * (size - sides)[:, None]
    colours = jax.random.uniform(keys[4], (max_digits, 3), minval=140.0, maxval=255.0)

    def ink_of(digit: jax.Array, side: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.image.scale_and_translate(
            digit / 255.0,
            (size, size),
            spatial_dims=(0, 1),
            scale=jnp.broadcast_to(side / digit.shape[0], (2,)),
            translation=corner,
            method="linear",
            antialias=False,
        )

    ink = jax.vmap(ink_of)(digits[which].astype(jnp.float32), sides, corners)  # [M, S, S]
    numbers = jnp.arange(max_digits)
    covers = (ink > _INK) & (numbers < count)[:, None, None]
    owner = jnp.max(jnp.where(covers, numbers[:, None, None], -1), axis=0)
    top = jnp.take_along_axis(ink, jnp.maximum(owner, 0)[None], axis=0)[0]
    noise = 60 + 30 * jax.random.normal(keys[5], (size, size, 3))
    image = jnp.where((owner >= 0)[..., None], top[..., None] * colours[owner], noise)

    visible = jnp.sum(owner == numbers[:, None, None], axis=(1, 2))
    classes = jnp.where(visible >= _MIN_PIXELS, labels[which] + 1, 0)
    return jnp.round(jnp.clip(image, 0, 255)).astype(jnp.uint8), owner, classes


def objects_of(
    owner: jax.Array, labels: jax.Array, *, mask_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Boxes `[M, 4]`, classes `[M]` and masks `[M, P, P]` uint8 of the digits of a scene."""
    size = owner.shape[0]
    whole = jnp.array([0, 0, size, size], jnp.float32)

    def one(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        mask = owner == number
        edges = []
        for axis in (1, 0):
            line = jnp.any(mask, axis=axis)
            edges.append((jnp.argmax(line), size - jnp.argmax(line[::-1])))
        (y1, y2), (x1, x2) = edges
        box = jnp.stack([y1, x1, y2, x2]).astype(jnp.float32)
        return box, (crop_mask(mask, whole, box, size=mask_size) > 0.5).astype(jnp.uint8)

    boxes, masks = jax.vmap(one)(jnp.arange(len(labels)))
    return jnp.where((labels > 0)[:, None], boxes, 0), labels, masks


def _objects(owners: np.ndarray, labels: np.ndarray) -> list[list[tuple[int, np.ndarray]]]:
    """Class and mask of every object of every evaluation scene."""
    return [
        [(int(label), owner == number) for number, label in enumerate(found) if label > 0]
        for owner, found in zip(owners, labels, strict=True)
    ]
