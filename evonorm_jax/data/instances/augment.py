"""Mirror images and scale jitter of images with objects, inside the compiled step.

All functions are of one example: `vmap` them. An example is `image` `[S, S, 3]` float32 in units of
0 ... 255, zero outside the picture, `valid_size` `[2]` int32, and the objects as
`evonorm_jax.detection.Truth` has them: `boxes` `[M, 4]`, `classes` `[M]`, `masks` `[M, P, P]`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from evonorm_jax.detection import boxes as box_math
from evonorm_jax.detection.targets import crop_mask

Example = dict[str, jax.Array]

#: Objects of which less than a square pixel is left are dropped.
_MIN_AREA = 1.0


def augment(
    key: jax.Array, example: Example, *, flip: bool, scale_jitter: tuple[float, float]
) -> Example:
    """Mirrors and rescales an example at random.

    Args:
      key: Key of this example alone.
      example: See the module.
      flip: Whether the picture is mirrored left to right with probability 1/2.
      scale_jitter: The picture is scaled by a factor drawn uniformly between these, and a place in
        it is drawn where it has become larger than the canvas.
    """
    flip_key, scale_key, place_key = jax.random.split(key, 3)
    if flip:
        mirrored = mirror(example)
        chosen = jax.random.bernoulli(flip_key)
        example = jax.tree.map(lambda x, y: jnp.where(chosen, x, y), mirrored, example)
    low, high = scale_jitter
    if (low, high) != (1.0, 1.0):
        scale = jax.random.uniform(scale_key, minval=low, maxval=high)
        place = jax.random.uniform(place_key, (2,))
        example = rescale(example, scale, place)
    return example


def mirror(example: Example) -> Example:
    """Mirrors the picture left to right; the padding stays where it is."""
    size, width = example["image"].shape[1], example["valid_size"][1]
    y1, x1, y2, x2 = jnp.moveaxis(example["boxes"], -1, 0)
    boxes = jnp.stack([y1, width - x2, y2, width - x1], axis=-1)
    return {
        **example,
        "image": jnp.roll(example["image"][:, ::-1], width - size, axis=1),
        "boxes": _of_objects(boxes, example["classes"]),
        "masks": example["masks"][..., ::-1],
    }


def rescale(example: Example, scale: jax.Array, place: jax.Array) -> Example:
    """Scales the picture on the same canvas, which then shows a part of it or more padding.

    Args:
      example: See the module.
      scale: Factor.
      place: `[2]` in [0, 1), where the canvas lies in a picture that is larger.
    """
    size = example["image"].shape[0]
    scaled = example["valid_size"] * scale
    offset = place * jnp.maximum(scaled - size, 0)
    # To whole pixels; at least one is left of every side.
    valid_size = jnp.clip(jnp.floor(scaled + 1e-4), 1, size).astype(jnp.int32)
    image = jax.image.scale_and_translate(
        example["image"],
        example["image"].shape,
        spatial_dims=(0, 1),
        scale=jnp.broadcast_to(scale, (2,)),
        translation=-offset,
        method="linear",
        antialias=False,
    )
    boxes = example["boxes"] * scale - jnp.tile(offset, 2)
    visible = box_math.clip(boxes, valid_size)
    kept = box_math.area(visible) >= _MIN_AREA
    classes = jnp.where(kept, example["classes"], 0)
    side = example["masks"].shape[-1]
    masks = jax.vmap(lambda mask, box, part: crop_mask(mask, box, part, size=side))(
        example["masks"], boxes, visible
    )
    return {
        **example,
        "image": clear_padding(image, valid_size),
        "valid_size": valid_size,
        "boxes": _of_objects(visible, classes),
        "classes": classes,
        "masks": (masks > 0.5).astype(example["masks"].dtype),
    }


def clear_padding(image: jax.Array, valid_size: jax.Array) -> jax.Array:
    """Sets what lies outside the picture to 0."""
    rows, columns = (jnp.arange(side) for side in image.shape[:2])
    inside = (rows < valid_size[0])[:, None] & (columns < valid_size[1])
    return jnp.where(inside[..., None], image, 0)


def _of_objects(boxes: jax.Array, classes: jax.Array) -> jax.Array:
    """Gives places without an object the box 0."""
    return jnp.where((classes > 0)[:, None], boxes, 0)
