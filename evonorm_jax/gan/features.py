"""The features and logits that a network computes from images and that the metrics compare.

There are two kinds of networks, and their figures have different names. With FID's Inception
network and its published weights the figures are `fid`, `kid`, `inception_score`, `precision` and
`recall`. Where the file of these weights is not at hand, a classifier that this project trained
takes its place. Its last features before the logits give `classifier_fid` and so on by the same
formulas. These figures compare generators with one another, but with nothing published.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.gan.inception import IMAGE_SIZE, InceptionV3, preprocess

Kind = Literal["inception", "classifier"]


class Features(NamedTuple):
    """The features of N images.

    Attributes:
      network: Network that saw the images, as its `FeatureNetwork.identity`.
      values: Features, `[N, D]`.
      logits: Logits of K classes, `[N, K]`.
      labels: Classes `[N]` that the images show or were drawn for; None where they have none.
    """

    network: str
    values: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network that computes features for the metrics.

    Attributes:
      kind: Kind of the network, "inception" or "classifier".
      name: Name for people, e.g. the file of the weights or the run directory.
      variables: Variables of the network.
      function: Pure function of the variables and of uint8 images `[N, H, W, C]` that returns
        features `[N, D]` and logits `[N, K]`. A training task may call it in a compiled step.
    """

    kind: Kind
    name: str
    variables: Any
    function: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]

    @property
    def identity(self) -> str:
        """Kind, name and a hash of the weights; a figure has no meaning without them."""
        return f"{self.kind} {self.name} {tensors_hash(self.variables)}"

    def __call__(
        self, images: np.ndarray, labels: np.ndarray | None = None, *, batch_size: int = 100
    ) -> Features:
        """Computes the features of uint8 images `[N, H, W, C]`, a batch at a time, each image once.

        Raises:
          UserError: There are no images, they have another shape or dtype, or the number of labels
            is not N.
        """
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
            raise UserError(
                f"images are {images.dtype}{list(images.shape)}: expected uint8 [N, H, W, C], N at "
                "least 1; those of a generator go through gan.images.to_uint8 first."
            )
        if labels is not None and len(labels) != len(images):
            raise UserError(f"{len(labels)} labels for {len(images)} images: give one for each.")
        run = jax.jit(self.function)
        batch_size = min(batch_size, len(images))
        outputs = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # The last batch is filled up, so that one program serves all.
            padded = np.concatenate([batch, images[: batch_size - len(batch)]])
            outputs.append([np.asarray(x)[: len(batch)] for x in run(self.variables, padded)])
        values, logits = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return Features(self.identity, values, logits, labels)


def inception_features(variables: Mapping[str, Any], name: str) -> FeatureNetwork:
    """Returns FID's Inception network; it takes grey images, too.

    Args:
      variables: Variables that `interop.load_inception_weights` read.
      name: Name of the weights for people, e.g. their file.
    """

    def function(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        if images.shape[-1] == 1:
            images = jnp.repeat(images, 3, axis=-1)
        output: Any = InceptionV3().apply(variables, preprocess(images, IMAGE_SIZE))
        return output.features, output.logits

    return FeatureNetwork("inception", name, dict(variables), function)


def classifier_features(
    model: nn.Module,
    variables: Mapping[str, Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
) -> FeatureNetwork:
    """Returns a classifier with the input of its layer `head` as features.

    Args:
      model: Classifier of `create_model`.
      variables: Variables of the classifier: `params` and, if it has any, `batch_stats`.
      mean: Mean of each channel that the classifier was trained with, in the units of the pixels.
      std: Standard deviation of each channel that the classifier was trained with, in the units of
        the pixels.
      name: Name for people, e.g. the run directory that the classifier is from.
    """
    shift, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

    def function(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled: list[jax.Array] = []

        def keep_input(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name == "head" and context.method_name == "__call__":
                pooled.append(args[0])
            return next_call(*args, **kwargs)

        inputs = (images.astype(jnp.float32) - shift) / scale
        with nn.intercept_methods(keep_input):
            logits: Any = model.apply(variables, inputs, train=False)
        if not pooled:
            raise UserError(
                f"{type(model).__name__} has no layer called head, whose input the features are: "
                "take a classifier of create_model."
            )
        return pooled[0].astype(jnp.float32), logits

    return FeatureNetwork("classifier", name, dict(variables), function)


def tensors_hash(variables: Mapping[str, Any]) -> str:
    """Returns twelve hexadecimal digits that identify these weights.

    >>> tensors_hash({"a": np.zeros(2, np.float32)})
    'b8eeb4bf5f75'
    """
    digest = hashlib.sha256()
    for path, array in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        array = np.asarray(array)
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
