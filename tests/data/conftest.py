"""Small image folders and configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def smooth_image(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width, 3]` that survives JPEG: a few random waves."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    phases = rng.uniform(0, 6, (3, 2))
    waves = [np.sin(rows / 5 + a) + np.cos(columns / 7 + b) for a, b in phases]
    return np.clip(127 + 60 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def write_folder(root: Path, counts: dict[str, tuple[int, ...]], ending: str = "jpg") -> Path:
    """Writes `<root>/<split>/<class>/<number>`; the sizes of the images differ."""
    seed = 0
    for split, numbers in counts.items():
        for class_name, number in zip(CLASSES, numbers, strict=False):
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(number):
                seed += 1
                image = smooth_image(seed, 20 + seed % 5, 24 + seed % 3)
                Image.fromarray(image).save(folder / f"{index:03d}.{ending}")
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 training and 11 evaluation JPEGs of three classes; to be read only."""
    root = tmp_path_factory.mktemp("images")
    return write_folder(root, {"train": (7, 6, 4), "val": (3, 4, 4)})
