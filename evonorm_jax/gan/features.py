"""What a network sees in images: the features and logits that the metrics compare.

Two kinds of networks, and their figures never go by the same name. With FID's Inception network and
its published weights the figures are `fid`, `kid`, `inception_score`, `precision` and `recall`.
Where that file is not at hand, a classifier that this project trained takes its place: its last
features before the logits give `classifier_fid` and so on by the same formulas, which compare
generators with one another but with nothing published.
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
    """Of N images.

    Attributes:
      network: `FeatureNetwork.identity` of the network that saw them.
      values: `[N, D]`.
      logits: `[N, K]`.
      labels: `[N]` classes that the images are of, or were drawn for; None where they have none.
    """

    network: str
    values: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network whose features the metrics take.

    Attributes:
      kind: "inception" or "classifier".
      name: for people, e.g. the file of the weights or the run directory.
      variables: of the network.
      function: `function(variables, images)` of uint8 images `[N, H, W, C]` gives values `[N, D]`
        and logits `[N, K]`; pure, so that a training task may call it in a compiled step.
    """

    kind: Kind
    name: str
    variables: Any
    function: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]

    @property
    def identity(self) -> str:
        """Kind, name and a hash of the weights: what a figure is worth nothing without."""
        return f"{self.kind} {self.name} {tensors_hash(self.variables)}"

    def __call__(
        self, images: np.ndarray, labels: np.ndarray | None = None, *, batch_size: int = 100
    ) -> Features:
        """Features of uint8 images `[N, H, W, C]`, a batch at a time, every image once.

        Raises:
          UserError: for no images, other than uint8, or another number of labels.
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
    """FID's Inception network.

    Args:
      variables: those that `interop.load_inception_weights` reads.
      name: what to call them, e.g. the file.
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
    """A classifier of `create_model`: the features that its layer `head` takes, and its logits.

    Args:
      model: the network.
      variables: `params` and, where it has them, `batch_stats`.
      mean: of each channel, in the units of the pixels, as the classifier was trained with.
      std: likewise.
      name: what to call it, e.g. the run directory that it is from.
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
    """Twelve hexadecimal digits that name these weights: a figure is nothing without them.

    >>> tensors_hash({"a": np.zeros(2, np.float32)})
    'b8eeb4bf5f75'
    """
    digest = hashlib.sha256()
    for path, array in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        array = np.asarray(array)
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
