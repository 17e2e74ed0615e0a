"""The detector of a run, ready to find objects in files and pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import jax
import numpy as np
from PIL import Image

from evonorm_jax.data.augment import normalize
from evonorm_jax.data.instances.augment import clear_padding
from evonorm_jax.data.instances.examples import fit_image
from evonorm_jax.data.pillow_images import DECODING_ERRORS, decode_image, to_colours
from evonorm_jax.detection import Detections, MaskRCNN
from evonorm_jax.detection.coco_evaluation import coco_results
from evonorm_jax.detection.drawing import draw_objects
from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CLASSES_FILE
from evonorm_jax.training.detection_pictures import MIN_SCORE, found_objects
from evonorm_jax.training.saved_run import SavedRun
from evonorm_jax.training.trained_run import FilePrediction, TrainedRun

Row = dict[str, np.ndarray]


class FoundObjects(NamedTuple):
    """What a detector finds in one image: n objects, the best first.

    Attributes:
      boxes: Boxes `[n, 4]` float32, `[y1, x1, y2, x2]` in pixels of the image.
      scores: Probabilities, `[n]` float32.
      classes: Classes from 1 on, `[n]` int.
      names: Their names.
      masks: Masks of the whole image, `[n, H, W]` bool.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: list[str]
    masks: np.ndarray


class TrainedDetector(TrainedRun):
    """The detector of a run.

    Attributes:
      class_names: Name of each class; the first is the background's.
      model: The `MaskRCNN`.
      image_size: Side of the canvas that images are fitted into, in pixels.
    """

    options: ClassVar[tuple[str, ...]] = ("min_score",)
    batch_size: ClassVar[int] = 4
    draws: ClassVar[bool] = True

    def __init__(self, saved: SavedRun, build: Callable[[Any, int], MaskRCNN]):
        super().__init__(saved)
        source = f"{saved.source}/{CLASSES_FILE}"
        if saved.classes is None:
            raise UserError(
                f"{source} is missing, which names the classes: the run is of an earlier version. "
                "Start its training command once more on the same --workdir; that writes the file."
            )
        try:
            record = saved.classes
            self.class_names = tuple(map(str, record["class_names"]))
            self.image_size = int(record["image_size"])
            self._category_ids = tuple(map(int, record["category_ids"]))
            mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{source} does not say what the classes are and how images are prepared "
                f"({error!r})."
            ) from None
        self._classes = dict(record)
        self._normalize = functools.partial(normalize, mean=mean, std=std)
        self.model = build(saved.config, len(self.class_names))

    def predict(self, images: Any, *, min_score: float = MIN_SCORE) -> list[FoundObjects]:
        """Finds objects in images.

        Args:
          images: One or several paths of files, pictures of Pillow, or arrays `[H, W, 3]` uint8.
          min_score: Lowest score of what is returned.

        Raises:
          UserError: A file cannot be read, or an array is no picture.
        """
        single = isinstance(images, str | Path | Image.Image)
        several = [images] if single else list(images)
        found = []
        for first in range(0, len(several), self.batch_size):
            read = [self.read(image) for image in several[first : first + self.batch_size]]
            for row, example in zip(self._detect(read), read, strict=True):
                found.append(self._found(row, example["size"], min_score))
        return found

    def read(self, image: str | Path | Image.Image | np.ndarray) -> Row:
        """Reads an image and fits it into the canvas.

        Returns:
          What `examples.fit_image` returns, and `size` `[2]`, height and width of the image.

        Raises:
          UserError: It cannot be read; the message names it.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise UserError(
                    f"An image is {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3]."
                )
            pixels = image
        else:
            pixels = read_pixels(image)
        example = fit_image(pixels, self.image_size)
        return {**example, "size": np.array(pixels.shape[:2])}

    def classes(self) -> dict[str, Any]:
        """Names and category ids of the classes, and how images are prepared."""
        return self._classes

    @property
    def program_inputs(self) -> dict[str, tuple[tuple[int, ...], str | None]]:
        """Canvases, pixel values from 0 to 255, and height and width of the picture in each."""
        size = self.image_size
        return {"images": ((size, size, 3), None), "valid_size": ((2,), "int32")}

    def program(self, *inputs: jax.Array) -> dict[str, jax.Array]:
        """Computes the fields of `detection.Detections`; boxes are in pixels of the canvas."""
        return self._compute(self.variables, *inputs)

    def _compute(
        self, variables: Mapping[str, Any], images: jax.Array, valid_size: jax.Array
    ) -> dict[str, jax.Array]:
        # The padding is 0 after normalising, as the network takes it for no picture.
        prepared = jax.vmap(clear_padding)(self._normalize(images), valid_size)
        found = self.model.apply(variables, prepared, valid_size)
        return cast(Detections, found)._asdict()

    @functools.cached_property
    def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(self._compute)

    @functools.cached_property
    def _device_variables(self) -> dict[str, Any]:
        return jax.device_put(self.variables)

    def _detect(self, examples: Sequence[Row]) -> Iterator[Row]:
        """Yields for each image the fields of `Detections`, boxes in pixels of the image."""
        count = len(examples)
        # Sizes are powers of two, so that few of them are compiled.
        padded = [*examples, *[examples[0]] * ((1 << (count - 1).bit_length()) - count)]
        images, valid_size = (
            np.stack([example[name] for example in padded]) for name in ("image", "valid_size")
        )
        found = jax.device_get(self._compiled(self._device_variables, images, valid_size))
        for i, example in enumerate(examples):
            row = {name: np.asarray(leaf[i]) for name, leaf in found.items()}
            yield {**row, "boxes": row["boxes"] / example["scale"]}

    def _found(self, row: Row, size: np.ndarray, min_score: float) -> FoundObjects:
        order = np.argsort(-row["scores"], kind="stable")
        order = order[row["scores"][order] >= max(min_score, 0.0)]  # -1 stands for nothing
        height, width = map(int, size)
        masks = [paste_mask(row["masks"][i], row["boxes"][i], (height, width)) for i in order]
        return FoundObjects(
            boxes=row["boxes"][order],
            scores=row["scores"][order],
            classes=row["classes"][order],
            names=[self.class_names[label] for label in row["classes"][order]],
            masks=np.stack(masks) if masks else np.zeros((0, height, width), bool),
        )

    def describe(
        self,
        paths: Sequence[str],
        numbers: Sequence[int],
        images: list[Row],
        **options: Any,
    ) -> Iterator[FilePrediction]:
        """Finds objects in a batch of images that `read` has read."""
        min_score = options.get("min_score", MIN_SCORE)
        for path, number, row, example in zip(
            paths, numbers, self._detect(images), images, strict=True
        ):
            yield FilePrediction(
                path,
                self._rows(path, row, min_score),
                functools.partial(self._records, path, number, row, example["size"]),
                functools.partial(self._picture, path, row, min_score),
            )

    def _rows(self, path: str, row: Row, min_score: float) -> list[dict[str, Any]]:
        rows = []
        for i in np.argsort(-row["scores"], kind="stable"):
            if row["scores"][i] < max(min_score, 0.0):
                break
            y1, x1, y2, x2 = map(float, row["boxes"][i])
            name = self.class_names[int(row["classes"][i])]
            place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            rows.append({"file": path, "class": name, "score": float(row["scores"][i]), **place})
        return rows

    def _records(self, path: str, number: int, row: Row, size: np.ndarray) -> list[dict[str, Any]]:
        """COCO's results of one image, all of them, as average precision needs them."""
        image = {"id": number, "height": int(size[0]), "width": int(size[1])}
        one = {name: leaf[np.newaxis] for name, leaf in row.items()} | {"index": np.zeros(1, int)}
        found = coco_results([image], one, category_ids=self._category_ids)
        return [{"file_name": path, **record} for record in found]

    def _picture(self, path: str, row: Row, min_score: float) -> Image.Image:
        pixels = read_pixels(path)
        return draw_objects(pixels, found_objects(self.class_names, pixels, row, min_score))


def read_pixels(image: str | Path | Image.Image) -> np.ndarray:
    """Reads an image file, or takes a picture of Pillow, as `[H, W, 3]` uint8.

    Raises:
      UserError: It cannot be read; the message names it.
    """
    try:
        if isinstance(image, Image.Image):
            return np.asarray(to_colours(image, 3))
        return np.asarray(decode_image(str(image), 3))
    except DECODING_ERRORS as error:
        raise UserError(f"'{image}' cannot be read as an image ({error}).") from error
