"""What the tf.data streams share: decoding of both kinds, and naming an image that is broken.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import tensorflow as tf

from evonorm_jax.data import tf_images
from evonorm_jax.data.pipeline import Batch
from evonorm_jax.errors import UserError
from evonorm_jax.input_files import printable


class Decoder:
    """Makes batches of encoded images as `config.dataset` says, from the seeds passed in."""

    def __init__(self, config: ml_collections.ConfigDict, *, seed: int) -> None:
        channels = len(config.mean)
        if (config.randaugment_layers or config.autoaugment) and channels != 3:
            raise UserError(
                "RandAugment and AutoAugment need RGB images, but config.dataset.mean has one"
                " value: set randaugment_layers=0 and autoaugment=False, or give mean and std"
                " three values."
            )
        self._config = config
        self._seed = seed
        self._train = functools.partial(
            tf_images.decode_train,
            size=config.train_crop_size or config.image_size,
            channels=channels,
            min_crop_area=config.min_crop_area,
            flip=config.flip,
            randaugment_layers=config.randaugment_layers,
            randaugment_magnitude=config.randaugment_magnitude,
            autoaugment=config.autoaugment,
            crop=config.train_crop,
            resize_method=config.resize_method,
            upright=config.exif_orientation,
        )
        self.decode_eval = functools.partial(
            tf_images.decode_eval,
            size=config.image_size,
            resize=config.resize_size or config.image_size,
            channels=channels,
            resize_method=config.resize_method,
            upright=config.exif_orientation,
        )

    def decode_train(self, contents: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """Makes an augmented image; `place` is its number in the run, see `train_positions`."""
        return self._train(contents, tf.stack([tf.constant(self._seed, tf.int64), place]))

    def batches(
        self, examples: tf.data.Dataset, decode: Callable[..., Batch], size: int
    ) -> Iterator[Batch]:
        """Maps `decode` over the examples in parallel, in order, and batches them as numpy."""
        # The order of the results is that of the examples, whatever finishes first; without that
        # neither a batch nor the search for a broken image would be reproducible.
        decoded = examples.map(
            tf.autograph.experimental.do_not_convert(decode),
            num_parallel_calls=self._config.num_parallel_calls,
            deterministic=True,
        )
        return decoded.batch(size).prefetch(self._config.prefetch).as_numpy_iterator()

    @contextlib.contextmanager
    def naming_broken(self, candidates: Callable[[], Iterable[tuple[str, Any]]]) -> Iterator[None]:
        """Turns an error of tf.data into a `UserError` that names the image.

        Args:
          candidates: Gives the name and the encoded bytes of the images that the failing batch was
            made of; bytes that are an exception say that the image could not even be read.
        """
        try:
            yield
        except tf.errors.OpError as error:
            for name, contents in candidates():
                if (reason := self._broken(contents)) is not None:
                    raise UserError(
                        f"The image '{printable(name)}' cannot be decoded ({reason}):"
                        " replace or remove it."
                    ) from error
            raise

    def _broken(self, contents: Any) -> str | None:
        """Why the image cannot be decoded, or None if it can be."""
        if isinstance(contents, Exception):
            return str(contents)
        try:
            self.decode_eval(contents)
        except tf.errors.OpError as error:
            # TensorFlow's message starts with the op's internal name in braces.
            return error.message.split("}}")[-1].strip().splitlines()[0]
        return None
