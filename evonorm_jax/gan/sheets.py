"""Sheets of many generated images: by class, between images, by truncation and with neighbours.

Every function but `neighbour_sheet` takes a function `draw(z, labels)` that returns uint8 images,
such as a `sampling.Sampler`. All return images `[rows, columns, H, W, C]` for `write_sheet`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from evonorm_jax.gan.sampling import draw_noise
from evonorm_jax.run_files import replacing

Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]

_GAP = 1  # pixels between two images
_MIN_SIDE = 32  # smaller images are enlarged, pixel by pixel
#: Truncations of the rows of `truncation_sheet`.
TRUNCATIONS = (1.0, 0.7, 0.5, 0.3, 0.1)


def write_sheet(path: Path, images: np.ndarray) -> None:
    """Writes images `[rows, columns, H, W, C]`, uint8, as one PNG file, which appears whole."""
    rows, columns, height, width, channels = images.shape
    scale = -(-_MIN_SIDE // min(height, width))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    gaps = ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0))
    spaced = np.pad(images, gaps, constant_values=255)
    sheet = spaced.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height * scale + _GAP), columns * (width * scale + _GAP), channels
    )
    write_png(path, sheet[:-_GAP, :-_GAP])


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes `[H, W, C]`, uint8, grey or RGB, as a PNG file, which appears whole."""
    contents = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(contents, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(contents.getvalue())


def class_sheet(
    draw: Draw,
    z_dim: int,
    classes: Sequence[int],
    columns: int = 10,
    truncation: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Draws one row for each class; the images of a column have the same noise.

    Args:
      draw: Function that draws images.
      z_dim: Length of a noise vector.
      classes: Classes of the rows.
      columns: Number of images of a class.
      truncation: Truncation of the noise; None for noise that is not truncated.
      seed: Seed of the noise.
    """
    z = _noise(seed, columns, z_dim, truncation)
    images = draw(np.tile(z, (len(classes), 1)), np.repeat(np.asarray(classes), columns))
    return images.reshape(len(classes), columns, *images.shape[1:])


def interpolation_sheet(
    draw: Draw, z_dim: int, num_classes: int, columns: int = 9, rows: int = 2, seed: int = 0
) -> np.ndarray:
    """Draws the way from one image to another, in three groups of `rows` rows.

    In the first group the class moves and the noise stays, in the second the noise moves and the
    class stays, and in the third both move.
    """
    ends = _noise(seed, 2 * rows, z_dim).reshape(rows, 2, z_dim)
    first, last = np.arange(rows) % num_classes, (np.arange(rows) + 1) % num_classes
    weights = np.eye(num_classes, dtype=np.float32)
    way = np.linspace(0, 1, columns, dtype=np.float32)[:, None]
    groups = []
    for class_moves, noise_moves in ((True, False), (False, True), (True, True)):
        for row in range(rows):
            along_class, along_noise = way * class_moves, way * noise_moves
            groups.append(
                (
                    (1 - along_noise) * ends[row, 0] + along_noise * ends[row, 1],
                    (1 - along_class) * weights[first[row]] + along_class * weights[last[row]],
                )
            )
    z, labels = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    images = draw(z, labels)
    return images.reshape(3 * rows, columns, *images.shape[1:])


def truncation_sheet(draw: Draw, z_dim: int, classes: Sequence[int], seed: int = 0) -> np.ndarray:
    """Draws one row for each of `TRUNCATIONS`; the images of a column share class and noise.

    The noise is scaled by the truncation of the row.
    """
    z = _noise(seed, len(classes), z_dim, truncation=1.0)
    scaled = np.concatenate([truncation * z for truncation in TRUNCATIONS])
    images = draw(scaled, np.tile(np.asarray(classes), len(TRUNCATIONS)))
    return images.reshape(len(TRUNCATIONS), len(classes), *images.shape[1:])


def neighbour_sheet(samples: np.ndarray, real: np.ndarray, columns: int = 5) -> np.ndarray:
    """Puts each sample beside the real images nearest to it, which reveals copies of them.

    Args:
      samples: Generated images `[N, H, W, C]`, uint8.
      real: Real images `[M, H, W, C]`, uint8.
      columns: Number of columns. The first holds the sample, the others its neighbours by the
        Euclidean distance of pixels, the nearest first.
    """
    flat, others = (x.reshape(len(x), -1).astype(np.float32) for x in (samples, real))
    distances = (others**2).sum(1) - 2 * flat @ others.T  # but for what each sample adds to all
    nearest = np.argsort(distances, axis=1)[:, : columns - 1]
    return np.concatenate([samples[:, None], real[nearest]], axis=1)


def _noise(seed: int, count: int, z_dim: int, truncation: float | None = None) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(draw_noise(keys, z_dim, truncation))
