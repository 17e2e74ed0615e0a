"""Decoding, cropping and resizing of encoded images in TensorFlow, for use inside `Dataset.map`.

Training follows the authors' ImageNet preprocessing (Inception crop, bicubic, flip): section 4.1 of
the paper refers to it. Every random choice is a stateless op, a function of the seed passed in.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import UnidentifiedImageError

from evonorm_jax.data import pillow_images, randaugment
from evonorm_jax.data.autoaugment import auto_augment

MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3  # width / height of a random crop


def decode_train(
    contents: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    channels: int,
    min_crop_area: float,
    flip: bool,
    randaugment_layers: int,
    randaugment_magnitude: float,
    autoaugment: bool,
    crop: str = "random",
    resize_method: str = "bicubic",
) -> tf.Tensor:
    """Decodes a random resized crop or the centre; flips it, applies RandAugment or AutoAugment.

    Args:
      contents: The encoded image, a scalar string: JPEG, PNG, GIF, BMP or WebP, any colours.
      seed: `[2]`, int64.
      size: Pixels of the output.
      channels: Channels of the output: 1 (grey) or 3 (RGB).
      min_crop_area: Smallest share of the image; the aspect ratio lies in 3/4 ... 4/3.
      flip: Whether to mirror half of the images left to right.
      randaugment_layers: Operations per image; 0 turns RandAugment off.
      randaugment_magnitude: Strength of the operations, see `randaugment.py`.
      autoaugment: Whether to apply the policy of `autoaugment.py`.
      crop: "random", or "center" for the whole shorter side about the centre.
      resize_method: "bicubic" or "area".

    Returns:
      uint8 `[size, size, channels]`.
    """
    crop_seed, flip_seed, augment_seed = tf.unstack(tf.random.split(seed, num=3))

    def window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if crop == "center":
            return _central_window(shape, 1.0)
        return random_window(shape, crop_seed, min_crop_area)

    image = _decode_window(contents, window, channels)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    image = _resize(image, size, resize_method)
    if autoaugment:
        return auto_augment(image, augment_seed)
    return randaugment.rand_augment(
        image, augment_seed, layers=randaugment_layers, magnitude=randaugment_magnitude
    )


def decode_eval(
    contents: tf.Tensor, *, size: int, resize: int, channels: int, resize_method: str = "bicubic"
) -> tf.Tensor:
    """Decodes the centre, such that the whole shorter side would become `resize` pixels.

    Returns:
      uint8 `[size, size, channels]`.
    """

    def window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Cutting the window first decodes and resizes less than resizing first.
        return _central_window(shape, size / resize)

    return _resize(_decode_window(contents, window, channels), size, resize_method)


def _central_window(shape: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns offset and extent of the square with this share of the shorter side."""
    shorter = tf.cast(tf.reduce_min(shape), tf.float32)
    side = tf.cast(tf.round(shorter * share), tf.int32)
    extent = tf.fill([2], tf.maximum(side, 1))
    return (shape - extent) // 2, extent


def random_window(
    shape: tf.Tensor, seed: tf.Tensor, min_area: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a part of an image of `shape` (height, width): its offset and extent, int32 `[2]`.

    Where no such part is found in ten attempts (a very long image, or one of few pixels), the
    centre, cut to the nearest permitted aspect ratio.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape, [3]], axis=0),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.0,  # the area below is the only bound
        aspect_ratio_range=(MIN_RATIO, MAX_RATIO),
        area_range=(min_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The op returns the whole image after ten failures, which may have any aspect ratio.
    longest = tf.cast(
        tf.round(tf.cast(tf.reverse(extent[:2], [0]), tf.float32) * MAX_RATIO), tf.int32
    )
    clipped = tf.minimum(extent[:2], longest)
    return begin[:2] + (extent[:2] - clipped) // 2, clipped


def _decode_window(contents, window, channels: int) -> tf.Tensor:  # type: ignore[no-untyped-def]
    """Decodes the part of the image that `window(shape)` names; of a JPEG, that part alone."""

    def jpeg() -> tf.Tensor:
        begin, extent = window(tf.image.extract_jpeg_shape(contents)[:2])
        return tf.image.decode_and_crop_jpeg(
            contents, tf.concat([begin, extent], axis=0), channels=3
        )

    def png() -> tf.Tensor:
        return cut(tf.io.decode_png(contents, channels=3))

    def other() -> tf.Tensor:
        image = tf.numpy_function(_decode_by_pillow, [contents], tf.uint8, stateful=False)
        return cut(tf.ensure_shape(image, [None, None, 3]))

    def cut(image: tf.Tensor) -> tf.Tensor:
        begin, extent = window(tf.shape(image)[:2])
        return tf.slice(image, tf.pad(begin, [[0, 1]]), tf.concat([extent, [3]], axis=0))

    is_png = tf.strings.substr(contents, 0, 4) == b"\x89PNG"
    image = tf.cond(tf.io.is_jpeg(contents), jpeg, lambda: tf.cond(is_png, png, other))
    # By way of RGB: TensorFlow's JPEG decoder makes no grey of CMYK. Grey files keep their values.
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def _decode_by_pillow(contents: bytes) -> np.ndarray:
    """BMP, GIF and WebP as uint8 `[height, width, 3]`."""
    # TensorFlow takes the palette of a BMP for grey, and reads no 1-bit BMP or transparent WebP.
    try:
        return np.asarray(pillow_images.decode_image(io.BytesIO(contents), channels=3))
    except UnidentifiedImageError as error:  # its message shows the address of the stream
        raise tf.errors.InvalidArgumentError(None, None, "no image in a known format") from error
    except pillow_images.DECODING_ERRORS as error:
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from error


def _resize(image: tf.Tensor, size: int, method: str) -> tf.Tensor:
    # Bicubic without antialiasing, as the authors' code and Flax's ImageNet example do.
    image = tf.image.resize(image, [size, size], method=method)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
