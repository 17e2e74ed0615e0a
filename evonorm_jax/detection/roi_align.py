"""RoIAlign over a feature pyramid (He et al., "Mask R-CNN", arXiv:1703.06870, section 3).

There are two forms of the same linear map. One gathers the four neighbours of every sampling point,
the other multiplies by matrices of interpolation weights. The first is for CPU and GPU: on a CPU,
2 x 64 boxes of 14x14 points and 64 channels take 0.04 s with the gradient, and 0.2 s in the second
form. The second is for TPU, which gathers slowly and multiplies fast. The compiler chooses when it
lowers the program for a platform. On a GPU the gradient of the first adds in no fixed order, so two
runs agree to rounding alone; XLA's flag `--xla_gpu_deterministic_ops=true` fixes the order.

The authors' TensorFlow code (tensorflow/tpu, models/official/detection) takes one point per bin,
like the default here. It does not shift by half a pixel; `half_pixel=False` does the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from evonorm_jax.detection import boxes as box_math


class _Points(NamedTuple):
    """The sampling points of every box, in pixels of its own map.

    The level has shape `[b, R]`, the coordinates `[b, R, S]`.
    """

    level: jax.Array  # which of the maps, an index
    y: jax.Array
    x: jax.Array


def roi_align(
    maps: Mapping[int, jax.Array],
    boxes: jax.Array,
    *,
    output_size: int,
    canonical_size: float = 224.0,
    sampling_ratio: int = 1,
    half_pixel: bool = True,
) -> jax.Array:
    """Resamples the part of the feature maps inside each box to a square.

    Args:
      maps: Feature maps `[b, H, W, C]` by level, all of the same images.
      boxes: Boxes `[b, R, 4]` in pixels of the images, inside of them.
      output_size: Number of bins along a side of the square.
      canonical_size: Side of a box in pixels from which on it is read from level 4, see
        `choose_levels`.
      sampling_ratio: Number of sampling points along a side of a bin. The value of the bin is their
        mean.
      half_pixel: Whether the values of a map sit at the centres of its pixels; False is the rule of
        the first Detectron.

    Returns:
      Features `[b, R, output_size, output_size, C]` in the dtype of the maps. Gradients reach the
      maps alone.
    """
    levels = sorted(maps)
    points = _sampling_points(
        lax.stop_gradient(boxes.astype(jnp.float32)),
        levels=levels,
        canonical_size=canonical_size,
        num_points=output_size * sampling_ratio,
        half_pixel=half_pixel,
    )
    ordered = tuple(maps[level] for level in levels)
    values = lax.platform_dependent(ordered, points, tpu=_multiply, default=_gather)
    if sampling_ratio == 1:
        return values
    shape = (*values.shape[:2], output_size, sampling_ratio, output_size, sampling_ratio, -1)
    return values.reshape(shape).mean(axis=(3, 5), dtype=jnp.float32).astype(values.dtype)


def choose_levels(boxes: jax.Array, levels: list[int], canonical_size: float) -> jax.Array:
    """Chooses the level that each box `[..., 4]` is read from, `[...]` integers.

    Square boxes with sides from `canonical_size` to twice that, in pixels, are read from level 4.
    The formula is `floor(4 + log2(sqrt(area) / canonical_size))`, limited to `levels` (Lin et al.,
    "Feature Pyramid Networks", arXiv:1612.03144, equation 1). As in the authors' code, all levels
    take part, P6 too.

    >>> choose_levels(jnp.array([[0, 0, 112.0, 112.0], [0, 0, 50, 50]]), [2, 3, 4], 224.0).tolist()
    [3, 2]
    """
    # By comparison with the thresholds themselves: a logarithm may round across one.
    sides = canonical_size * 2.0 ** (np.asarray(levels[1:], np.float64) - 4)
    reached = box_math.area(boxes)[..., None] >= np.square(sides).astype(np.float32)
    return levels[0] + jnp.sum(reached, axis=-1, dtype=jnp.int32)


def _sampling_points(
    boxes: jax.Array,
    *,
    levels: list[int],
    canonical_size: float,
    num_points: int,
    half_pixel: bool,
) -> _Points:
    level = choose_levels(boxes, levels, canonical_size)
    scaled = boxes / jnp.exp2(level.astype(jnp.float32))[..., None]
    start, end = scaled[..., None, :2], scaled[..., None, 2:]
    fractions = (np.arange(num_points, dtype=np.float32)[:, None] + 0.5) / num_points
    points = start + (end - start) * fractions - (0.5 if half_pixel else 0)
    return _Points(level - levels[0], y=points[..., 0], x=points[..., 1])


def _gather(maps: tuple[jax.Array, ...], points: _Points) -> jax.Array:
    """Gathers and weighs four pixels for every point, from the maps laid end to end."""
    flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1, leaf.shape[-1]) for leaf in maps], 1)
    shapes = np.array([leaf.shape[1:3] for leaf in maps])
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
    height, width = jnp.moveaxis(jnp.asarray(shapes)[points.level], -1, 0)
    offset, row_length = jnp.asarray(offsets)[points.level][..., None], width[..., None]

    total = jnp.zeros((), jnp.float32)
    for row, row_weight in _neighbours(points.y, height):
        for column, column_weight in _neighbours(points.x, width):
            index = (offset + row * row_length)[..., :, None] + column[..., None, :]
            weight = row_weight[..., :, None] * column_weight[..., None, :]
            values = jax.vmap(lambda rows, index: rows[index])(flat, index)
            total = total + weight[..., None] * values
    return total.astype(flat.dtype)


def _neighbours(position: jax.Array, size: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Returns index and weight of the map's pixels below and above each position `[b, R, S]`."""
    last = (size - 1)[..., None]
    position = jnp.clip(position, 0, last.astype(position.dtype))
    low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low
    return [(low, 1 - fraction), (jnp.minimum(low + 1, last), fraction)]


def _multiply(maps: tuple[jax.Array, ...], points: _Points) -> jax.Array:
    """Multiplies by interpolation weights, which are 0 for levels that a box is not read from."""

    def one_image(maps: tuple[jax.Array, ...], points: _Points) -> jax.Array:
        total = jnp.zeros((), maps[0].dtype)
        for index, features in enumerate(maps):
            height, width, _ = features.shape
            here = (points.level == index).astype(features.dtype)[:, None, None]
            rows = here * _weights(points.y, height, features.dtype)
            columns = _weights(points.x, width, features.dtype)
            product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
            total = total + product("rph,hwc,rqw->rpqc", rows, features, columns)
        return total

    # An image at a time: the intermediate product of 512 boxes of 7x7 points with a map of
    # 256x256 pixels and 256 channels takes 470 MB in bfloat16.
    return lax.map(lambda operands: one_image(*operands), (maps, points))


def _weights(position: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    """Returns weights `[R, S, size]`: the hat function around each position, clamped to the map."""
    position = jnp.clip(position, 0, size - 1)
    distance = jnp.abs(position[..., None] - jnp.arange(size, dtype=jnp.float32))
    return jnp.maximum(1 - distance, 0).astype(dtype)
