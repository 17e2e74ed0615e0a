"""RandAugment (Cubuk et al., 2020) in TensorFlow: n operations per image, one magnitude for all.

The operations and their strengths are those of the authors' ImageNet code; with magnitude m, on a
scale of 0 to 10 that may be exceeded (the recipe of EfficientNet-B5 has 17):

  rotate                        +-3 m degrees
  shear_x, shear_y              +-0.03 m
  translate_x, translate_y      +-4.46 % m of the side (10 m of 224 pixels)
  color, contrast, brightness, sharpness   factor 0.1 + 0.18 m (1 changes nothing)
  posterize                     keeps floor(0.4 m) bits: weaker with growing m
  solarize                      inverts values from floor(25.6 m) on: weaker with growing m
  solarize_add                  adds floor(11 m) to values below 128
  cutout                        a square of side 35.7 % m / 10 of the image
  autocontrast, equalize, invert

Two lengths differ from that code: it measures translation and cutout in pixels whatever the size
of the image; here they are in proportion to it and agree at 224 pixels. What leaves the image is
filled with grey 128. Signs, places and operations are drawn by stateless ops from the seed.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

GREY = 128


def rand_augment(image: tf.Tensor, seed: tf.Tensor, *, layers: int, magnitude: float) -> tf.Tensor:
    """Applies `layers` operations, each drawn from all of them with equal probability.

    Args:
      image: `[H, W, 3]` of static shape, uint8.
      seed: `[2]`, int64.
      layers: Number of operations; 0 returns the image.
      magnitude: Strength of all operations, as the module says.

    Returns:
      uint8, same shape.
    """
    shape = image.shape
    for layer_seed in tf.unstack(tf.random.split(seed, num=layers)) if layers else []:
        choice_seed, op_seed = tf.unstack(tf.random.split(layer_seed, num=2))
        choice = tf.random.stateless_uniform([], choice_seed, 0, len(OPERATIONS), tf.int32)
        branches = [
            functools.partial(operation, image, magnitude, op_seed)
            for operation in OPERATIONS.values()
        ]
        image = tf.ensure_shape(tf.switch_case(choice, branches), shape)
    return image


# Colour: each of these changes values in place.


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0 ... 255; a channel of one value stays."""
    values = tf.cast(image, tf.float32)
    low = tf.reduce_min(values, axis=[0, 1])
    high = tf.reduce_max(values, axis=[0, 1])
    # The quotient of whole numbers must not fall below a whole number: 1e-3 is less than 1/255.
    stretched = tf.floor((values - low) * 255.0 / tf.maximum(high - low, 1.0) + 1e-3)
    return tf.where(high > low, tf.cast(stretched, tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel, by Pillow's integer arithmetic."""

    def one_channel(channel: tf.Tensor) -> tf.Tensor:
        values = tf.cast(channel, tf.int32)
        histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
        step = (tf.size(values) - histogram[tf.reduce_max(values)]) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        equal = tf.gather(tf.clip_by_value(table, 0, 255), values)
        return tf.where(step > 0, tf.cast(equal, tf.uint8), channel)

    return tf.stack([one_channel(channel) for channel in tf.unstack(image, axis=-1)], axis=-1)


def invert(image: tf.Tensor) -> tf.Tensor:
    """255 - value."""
    return 255 - image


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the `bits` (0 ... 8) highest bits."""
    return image & (256 - 2 ** (8 - bits))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values from `threshold` on."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the values below 128."""
    brighter = tf.minimum(tf.cast(image, tf.int32) + addition, 255)
    return tf.where(image < 128, tf.cast(brighter, tf.uint8), image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Saturation: 0 is grey, 1 the image."""
    return _blend(tf.broadcast_to(_luma(image), tf.shape(image)), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """0 is a constant image of the mean luma, 1 the image."""
    mean = tf.floor(tf.reduce_mean(tf.cast(_luma(image), tf.float32)) + 0.5)
    return _blend(tf.fill(tf.shape(image), tf.cast(mean, tf.uint8)), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """0 is black, 1 the image."""
    return _blend(tf.zeros_like(image), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """0 is smoothed by a 3x3 kernel (the border stays), 1 the image."""
    channels = image.shape[-1]
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, channels, 1])
    smooth = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], kernel, strides=[1, 1, 1, 1], padding="VALID"
    )[0]
    inside = tf.pad(tf.ones_like(smooth, tf.bool), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.pad(tf.cast(tf.round(smooth), tf.uint8), [[1, 1], [1, 1], [0, 0]])
    return _blend(tf.where(inside, smooth, image), image, factor)


# Geometry: nearest pixel, as in the authors' code.


def rotate(image: tf.Tensor, degrees: tf.Tensor | float) -> tf.Tensor:
    """Rotates about the centre, counter-clockwise."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    centre_y, centre_x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    return _affine(
        image,
        (cos, -sin, centre_x - cos * centre_x + sin * centre_y),
        (sin, cos, centre_y - sin * centre_x - cos * centre_y),
    )


def shear_x(image: tf.Tensor, level: tf.Tensor | float) -> tf.Tensor:
    """Shifts row y to the left by `level` * y pixels."""
    return _affine(image, (1.0, level, 0.0), (0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, level: tf.Tensor | float) -> tf.Tensor:
    """Shifts column x upwards by `level` * x pixels."""
    return _affine(image, (1.0, 0.0, 0.0), (level, 1.0, 0.0))


def translate_x(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """Shifts to the left."""
    return _affine(image, (1.0, 0.0, pixels), (0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """Shifts upwards."""
    return _affine(image, (1.0, 0.0, 0.0), (0.0, 1.0, pixels))


def cutout(image: tf.Tensor, half: int, seed: tf.Tensor) -> tf.Tensor:
    """A grey square of side 2 * `half` around a random pixel, cut at the border."""
    height, width = image.shape[:2]
    place = tf.random.stateless_uniform([2], seed) * [float(height), float(width)]
    row, column = tf.unstack(tf.cast(place, tf.int32))
    rows, columns = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
    inside = (
        (rows >= row - half)
        & (rows < row + half)
        & (columns >= column - half)
        & (columns < column + half)
    )
    return tf.where(inside, tf.constant(GREY, tf.uint8), image)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma `[H, W, 1]` by Pillow's integer arithmetic."""
    weights = tf.constant([19595, 38470, 7471])
    total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
    return tf.cast((total + 32768) // 65536, tf.uint8)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """degenerate + factor * (image - degenerate), cut to 0 ... 255, fractions dropped."""
    start = tf.cast(degenerate, tf.float32)
    mixed = start + factor * (tf.cast(image, tf.float32) - start)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _affine(image: tf.Tensor, x_row: tuple, y_row: tuple) -> tf.Tensor:
    """The image whose pixel (x, y) shows (x_row . (x, y, 1), y_row . (x, y, 1)) of `image`."""
    transform = [tf.cast(value, tf.float32) for value in (*x_row, *y_row, 0.0, 0.0)]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(transform)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(GREY),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def _signed(value: float, seed: tf.Tensor) -> tf.Tensor:
    """`value` or `-value`, with equal probability."""
    return tf.where(tf.random.stateless_uniform([], seed) < 0.5, value, -value)


Operation = Callable[[tf.Tensor, float, tf.Tensor], tf.Tensor]


def _plain(operation: Callable[[tf.Tensor], tf.Tensor]) -> Operation:
    return lambda image, magnitude, seed: operation(image)


def _enhance(operation: Callable[[tf.Tensor, float], tf.Tensor]) -> Operation:
    return lambda image, magnitude, seed: operation(image, 0.1 + 0.18 * magnitude)


def _move(operation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], unit: float) -> Operation:
    return lambda image, magnitude, seed: operation(image, _signed(unit * magnitude, seed))


def _shift(operation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], axis: int) -> Operation:
    return lambda image, magnitude, seed: operation(
        image, _signed(magnitude * 10 / 224 * image.shape[axis], seed)
    )


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _plain(autocontrast),
    "equalize": _plain(equalize),
    "invert": _plain(invert),
    "rotate": _move(rotate, 3.0),
    "posterize": lambda image, m, seed: posterize(image, min(int(0.4 * m), 8)),
    "solarize": lambda image, m, seed: solarize(image, int(25.6 * m)),
    "color": _enhance(color),
    "contrast": _enhance(contrast),
    "brightness": _enhance(brightness),
    "sharpness": _enhance(sharpness),
    "shear_x": _move(shear_x, 0.03),
    "shear_y": _move(shear_y, 0.03),
    "translate_x": _shift(translate_x, 1),
    "translate_y": _shift(translate_y, 0),
    "cutout": lambda image, m, seed: cutout(image, round(4 / 224 * m * image.shape[0]), seed),
    "solarize_add": lambda image, m, seed: solarize_add(image, int(11 * m)),
}
