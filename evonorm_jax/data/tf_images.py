"""Decoding, cropping and resizing of encoded images in TensorFlow, for use inside `Dataset.map`.

Training follows the authors' ImageNet preprocessing (Inception crop, bicubic, flip): section 4.1 of
the paper refers to it. Every random choice is a stateless op, a function of the seed passed in.
Importing this module imports TensorFlow.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from evonorm_jax.data import pillow_images, randaugment
from evonorm_jax.data.autoaugment import auto_augment

MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3  # width / height of a random crop
_HEAD_BYTES = 2048  # a JPEG without EXIF and profiles has its pixels after some 600


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
    upright: bool = True,
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
      upright: Whether a photograph is turned as its EXIF orientation says, before the crop.

    Returns:
      uint8 `[size, size, channels]`.
    """
    crop_seed, flip_seed, augment_seed = tf.unstack(tf.random.split(seed, num=3))

    def window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if crop == "center":
            return _central_window(shape, 1.0)
        return random_window(shape, crop_seed, min_crop_area)

    image = _decode_window(contents, window, channels, upright)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    image = _resize(image, size, resize_method)
    if autoaugment:
        return auto_augment(image, augment_seed)
    return randaugment.rand_augment(
        image, augment_seed, layers=randaugment_layers, magnitude=randaugment_magnitude
    )


def decode_eval(
    contents: tf.Tensor,
    *,
    size: int,
    resize: int,
    channels: int,
    resize_method: str = "bicubic",
    upright: bool = True,
) -> tf.Tensor:
    """Decodes the centre, such that the whole shorter side would become `resize` pixels.

    A photograph is turned as its EXIF orientation says, if `upright`.

    Returns:
      uint8 `[size, size, channels]`.
    """

    def window(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Cutting the window first decodes and resizes less than resizing first.
        return _central_window(shape, size / resize)

    image = _decode_window(contents, window, channels, upright)
    return _resize(image, size, resize_method)


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


def _decode_window(  # type: ignore[no-untyped-def]
    contents, window, channels: int, upright: bool
) -> tf.Tensor:
    """Decodes the part of the image that `window(shape)` names; of a JPEG, that part alone."""

    def jpeg() -> tf.Tensor:
        begin, extent, turn = place(tf.image.extract_jpeg_shape(contents)[:2])
        region = tf.concat([begin, extent], axis=0)
        return turn(tf.image.decode_and_crop_jpeg(contents, region, channels=3))

    def png() -> tf.Tensor:
        # Height and width stand in the first chunk, behind the signature, length and name. A file
        # that is shorter is padded: TensorFlow's decoder has the better message.
        start = tf.strings.join([tf.strings.substr(contents, 0, 24), b"\0" * 24])
        sides = tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False)
        begin, extent, turn = place(tf.reverse(sides, [0]))
        return turn(cut(tf.io.decode_png(contents, channels=3), begin, extent))

    def other() -> tf.Tensor:
        decode = functools.partial(_decode_by_pillow, upright=upright)
        image = tf.numpy_function(decode, [contents], tf.uint8, stateful=False)
        return cut(tf.ensure_shape(image, [None, None, 3]), *window(tf.shape(image)[:2]))

    def place(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        pixels = tf.reduce_prod(tf.cast(shape, tf.int64))
        limit = pillow_images.MAX_PIXELS
        tf.debugging.assert_less_equal(
            pixels, tf.constant(limit, tf.int64), f"more than the {limit:,} pixels that are decoded"
        )
        if not upright:
            return *window(shape), lambda image: image
        return _place_upright(shape, window, _orientation(contents))

    def cut(image: tf.Tensor, begin: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
        return tf.slice(image, tf.pad(begin, [[0, 1]]), tf.concat([extent, [3]], axis=0))

    is_png = tf.strings.substr(contents, 0, 4) == b"\x89PNG"
    image = tf.cond(tf.io.is_jpeg(contents), jpeg, lambda: tf.cond(is_png, png, other))
    # By way of RGB: TensorFlow's JPEG decoder makes no grey of CMYK. Grey files keep their values.
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def _place_upright(  # type: ignore[no-untyped-def]
    shape: tf.Tensor, window, orientation: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Finds where a window of the upright image lies in the file, and what turns it upright.

    Upright is what the file holds, with rows and columns exchanged from orientation 5 on, then
    mirrored from top to bottom and from left to right where `mirrored` says so.
    """
    exchanged = orientation >= 5
    mirrored = tf.stack(
        [tf.reduce_any(orientation == kinds) for kinds in ([3, 4, 7, 8], [2, 3, 6, 7])]
    )

    def exchange(pair: tf.Tensor) -> tf.Tensor:
        return tf.where(exchanged, tf.reverse(pair, [0]), pair)

    def turn(image: tf.Tensor) -> tf.Tensor:
        image = tf.cond(exchanged, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        image = tf.cond(mirrored[0], lambda: tf.reverse(image, [0]), lambda: image)
        return tf.cond(mirrored[1], lambda: tf.reverse(image, [1]), lambda: image)

    upright_shape = exchange(shape)
    begin, extent = window(upright_shape)
    begin = tf.where(mirrored, upright_shape - begin - extent, begin)
    return (
        exchange(begin),
        exchange(extent),
        lambda image: tf.cond(orientation == 1, lambda: image, lambda: turn(image)),
    )


def _orientation(contents: tf.Tensor) -> tf.Tensor:
    """EXIF orientation of a JPEG or PNG, int32 from 1 to 8, as `pillow_images` reads it."""
    # Python takes turns with the training loop, so that it is asked only where there may be EXIF:
    # it is in sight, or the pixels, which it must precede, are not.
    head = tf.strings.substr(contents, 0, _HEAD_BYTES)
    seen = tf.strings.regex_full_match(head, r"\C*(Exif|eXIf)\C*")
    codes = tf.io.decode_raw(head, tf.uint8)
    scan = (codes[:-2] == 0xFF) & (codes[1:-1] == 0xDA) & (codes[2:] == 0)  # of a JPEG
    begun = tf.reduce_any(scan) | tf.strings.regex_full_match(head, r"\C*IDAT\C*")
    return tf.cond(
        seen | ~begun,
        lambda: tf.ensure_shape(
            tf.numpy_function(_read_orientation, [contents], tf.int32, stateful=False), []
        ),
        lambda: 1,
    )


def _read_orientation(contents: bytes) -> np.int32:
    try:
        with pillow_images.open_image(io.BytesIO(contents)) as image:
            return np.int32(pillow_images.read_orientation(image))
    except pillow_images.DECODING_ERRORS:  # TensorFlow's decoder will say what is wrong
        return np.int32(1)


def _decode_by_pillow(contents: bytes, upright: bool) -> np.ndarray:
    """BMP, GIF and WebP as uint8 `[height, width, 3]`."""
    # TensorFlow takes the palette of a BMP for grey, and reads no 1-bit BMP or transparent WebP.
    try:
        image = pillow_images.decode_image(io.BytesIO(contents), channels=3, upright=upright)
        return np.asarray(image)
    except pillow_images.DECODING_ERRORS as error:
        reason = pillow_images.describe(error)
        raise tf.errors.InvalidArgumentError(None, None, reason) from error


def _resize(image: tf.Tensor, size: int, method: str) -> tf.Tensor:
    # Bicubic without antialiasing, as the authors' code and Flax's ImageNet example do.
    image = tf.image.resize(image, [size, size], method=method)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
