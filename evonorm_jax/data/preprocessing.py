"""From an image of any size to what a network sees in evaluation, without TensorFlow.

Evaluations crop and resize in two ways. Sets that are read into memory by Pillow are resized with
antialiasing. Sets that TensorFlow reads, those that stream and those of TFDS, are resized by its
`tf.image.resize` without antialiasing; `resize_plainly` computes the same in NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from evonorm_jax.data.augment import normalize
from evonorm_jax.data.pillow_images import (
    DECODING_ERRORS,
    crop_and_resize,
    decode_image,
    to_colours,
)
from evonorm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections

_TABLE_SIZE = 1024  # steps between two pixels at which TensorFlow tabulates its cubic kernel
_LUMA = np.array([0.2989, 0.5870, 0.1140], np.float32)  # of `tf.image.rgb_to_grayscale`


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a network, as its evaluation prepares them.

    Attributes:
      image_size: Height and width of the network's input, in pixels.
      resize_size: Pixels that the whole shorter side would become; the centre is cut out of that.
      channels: 3 for RGB, 1 for grey.
      mean: Mean of each channel that is subtracted, in units of 0 to 255.
      std: Standard deviation of each channel that is divided by, in units of 0 to 255.
      resize_method: "bicubic", or "area" for the mean of the pixels.
      antialias: Whether Pillow resizes, with antialiasing, or the numerics of TensorFlow count.
    """

    image_size: int
    resize_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_method: str = "bicubic"
    antialias: bool = True

    @classmethod
    def of_dataset(cls, config: ml_collections.ConfigDict) -> Preprocessing:
        """Returns what the evaluation of a `config.dataset` does.

        >>> from evonorm_jax.data import dataset_config
        >>> Preprocessing.of_dataset(dataset_config("imagenet2012", "folder")).resize_size
        256
        """
        return cls(
            image_size=config.image_size,
            resize_size=config.resize_size or config.image_size,
            channels=len(config.mean),
            mean=tuple(map(float, config.mean)),
            std=tuple(map(float, config.std)),
            resize_method=config.resize_method,
            antialias=config.in_memory and config.source != "tfds",
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any], source: str) -> Preprocessing:
        """Reads what `to_json` returned, among other entries.

        Raises:
          UserError: Something is missing or has another type; the message names `source`.
        """
        try:
            return cls(
                image_size=int(record["image_size"]),
                resize_size=int(record["resize_size"]),
                channels=int(record["channels"]),
                mean=tuple(map(float, record["mean"])),
                std=tuple(map(float, record["std"])),
                resize_method=str(record["resize_method"]),
                antialias=bool(record["antialias"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{source} does not say how images are prepared ({error!r}): it must have "
                f"{', '.join(field.name for field in dataclasses.fields(cls))}."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def read(self, image: str | Path | Image.Image) -> np.ndarray:
        """Reads an image file, or takes an image of Pillow, and crops and resizes it.

        Returns:
          uint8 `[image_size, image_size, channels]`.

        Raises:
          UserError: The file cannot be read or decoded; the message names it.
        """
        # TensorFlow makes grey of RGB, whatever the file has; Pillow of the file's own colours.
        channels = self.channels if self.antialias else 3
        try:
            if isinstance(image, Image.Image):
                decoded = to_colours(image, channels)
            else:
                decoded = decode_image(str(image), channels)
        except DECODING_ERRORS as error:
            raise UserError(f"'{image}' cannot be read as an image ({error}).") from error
        if self.antialias:
            return crop_and_resize(
                decoded,
                size=self.image_size,
                resize=self.resize_size,
                resize_method=self.resize_method,
            )
        return self._read_plainly(np.asarray(decoded))

    def _read_plainly(self, pixels: np.ndarray) -> np.ndarray:
        """Does what `tf_images.decode_eval` does, to uint8 `[height, width, 3]`."""
        shorter = np.float32(min(pixels.shape[:2]))
        side = max(1, int(np.round(shorter * np.float32(self.image_size / self.resize_size))))
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        pixels = pixels[top : top + side, left : left + side]
        if self.channels == 1:
            grey = (pixels / np.float32(255)) @ _LUMA
            pixels = (grey * np.float32(255.5)).astype(np.uint8)[..., np.newaxis]
        resized = resize_plainly(pixels, self.image_size, self.resize_method)
        return np.round(np.clip(resized, 0, 255)).astype(np.uint8)

    def fit(self, images: np.ndarray) -> np.ndarray:
        """Crops and resizes a batch of arrays, unless it has the network's size already.

        Args:
          images: uint8 or floating point `[N, H, W, C]`, pixel values of 0 to 255 that are not
            normalised. Floating-point values are rounded where they are resized.

        Returns:
          `[N, image_size, image_size, C]` of the same dtype, or uint8 where it was resized.

        Raises:
          UserError: The array has another shape, dtype or range.
        """
        _check_array(images, self.channels)
        if images.shape[1:3] == (self.image_size, self.image_size):
            return images
        pixels = images if images.dtype == np.uint8 else np.round(images).astype(np.uint8)
        shown = pixels if self.channels == 3 else pixels[..., 0]
        return np.stack([self.read(Image.fromarray(image)) for image in shown])

    def normalize(self, images: jax.Array) -> jax.Array:
        """Computes `(images - mean) / std` in float32, for images of 0 to 255; may be traced."""
        return normalize(images, self.mean, self.std)


def resize_plainly(pixels: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resizes `[H, W, C]` to float32 `[size, size, C]` as `tf.image.resize` does.

    Args:
      pixels: The image.
      size: Height and width of the result, in pixels.
      method: "bicubic" (Keys, without antialiasing) or "area" (the mean of the pixels).
    """
    rows, columns = (_weights(length, size, method) for length in pixels.shape[:2])
    used = rows.any(axis=0)  # of a large image bicubic reads few rows
    lines = np.tensordot(rows[:, used], pixels[used].astype(np.float32), 1)
    return np.tensordot(lines, columns, ((1,), (1,))).transpose(0, 2, 1)


def _weights(length: int, size: int, method: str) -> np.ndarray:
    """Weights `[size, length]` float32 of the pixels along one axis in the resized ones."""
    scale = length / size
    if method == "area":
        edges = np.arange(size + 1) * scale
        pixel = np.arange(length)
        ends = np.minimum(edges[1:, None], pixel + 1)
        shares = np.clip(ends - np.maximum(edges[:-1, None], pixel), 0, None) / scale
        return shares.astype(np.float32)
    place = (np.arange(size) + 0.5) * scale - 0.5
    first = np.floor(place)
    offset = np.round((place - first) * _TABLE_SIZE) / _TABLE_SIZE
    taps = np.arange(-1, 3)
    pixel = (first[:, None] + taps).astype(int)
    weights = _keys_cubic(np.abs(offset[:, None] - taps))
    weights *= (pixel >= 0) & (pixel < length)  # beyond the edge nothing counts
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((size, length))
    np.add.at(matrix, (np.arange(size)[:, None], pixel.clip(0, length - 1)), weights)
    return matrix.astype(np.float32)


def _keys_cubic(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -1/2 (Keys 1981, equation 15)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _check_array(images: np.ndarray, channels: int) -> None:
    """Raises `UserError` unless these are pixels `[N, H, W, C]` of 0 to 255."""
    if images.ndim != 4 or images.shape[-1] != channels:
        raise UserError(
            f"images have shape {list(images.shape)}: expected [N, H, W, {channels}], the channels "
            "last; add a batch axis with images[None], a channel axis with images[..., None]."
        )
    if images.dtype == np.uint8 or not images.size:
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"images have dtype {images.dtype}: expected uint8 or floating point.")
    low, high = float(images.min()), float(images.max())
    if not ((low >= 0 and 1 < high <= 255) or low == high == 0):
        raise UserError(
            f"images have values from {low:g} to {high:g}: expected pixel values from 0 to 255, "
            "not normalised; multiply images of 0 to 1 by 255."
        )
