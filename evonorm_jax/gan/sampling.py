"""Sampling of images: noise and classes drawn from keys, and the statistics that layers need.

With a truncation t, noise is t times a normal distribution that is cut at -2 and 2
(arXiv:1809.11096, section 3.1, as in the published generators). Without truncation it is standard
normal.

Layers with batch statistics are evaluated with standing statistics: the mean of the statistics of
training-mode passes over fresh noise (arXiv:1809.11096, appendix C.1). Other layers have none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.gan.create import Gan
from evonorm_jax.gan.images import to_uint8
from evonorm_jax.gan.spectral_norm import COLLECTION
from evonorm_jax.norm_act import accepts_field

# Power steps from the newest u and v to those of averaged parameters, which lie close by.
_STEPS_OF_AVERAGES = 10

# In a pass for standing statistics the statistic of the batch takes the place of the old one, and
# all of the batch is taken together.
_STANDING_FIELDS = {
    "momentum": 0.0,
    "virtual_batch_size": None,
    "axis_name": None,
    "axis_index_groups": None,
}


def check_truncation(truncation: float | None) -> None:
    """Checks a truncation; None, which stands for no truncation, is allowed.

    Raises:
      UserError: The truncation is not above 0 and at most 1.
    """
    if truncation is not None and not 0 < truncation <= 1:
        raise UserError(
            f"truncation is {truncation:g}: it must be above 0 and at most 1; leave it out to draw "
            "from the whole normal distribution."
        )


def draw_noise(keys: jax.Array, z_dim: int, truncation: float | None = None) -> jax.Array:
    """Draws noise `[N, z_dim]`, float32.

    Args:
      keys: Typed PRNG keys, `[N]`.
      z_dim: Length of a noise vector.
      truncation: Truncation above 0 and at most 1; None for a standard normal distribution.

    Raises:
      UserError: The truncation is not above 0 and at most 1.
    """
    check_truncation(truncation)
    if truncation is None:
        return jax.vmap(lambda key: jax.random.normal(key, (z_dim,)))(keys)
    return truncation * jax.vmap(lambda key: jax.random.truncated_normal(key, -2, 2, (z_dim,)))(
        keys
    )


def draw_inputs(
    keys: jax.Array, gan: Gan, truncation: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws noise `[N, z_dim]` and classes `[N]`, each class as likely as the others.

    >>> from evonorm_jax.gan import create_gan
    >>> gan = create_gan("biggan_deep_8", 10, num_filters=8, z_dim=4)
    >>> z, labels = draw_inputs(jax.random.split(jax.random.key(0), 3), gan)
    >>> z.shape, labels.shape
    ((3, 4), (3,))
    """
    noise_keys, label_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, gan.num_classes))(label_keys)
    return draw_noise(noise_keys, gan.z_dim, truncation), labels


def averaged_variables(gan: Gan, variables: Mapping[str, Any], params: Any) -> dict[str, Any]:
    """Returns the generator's variables with averaged parameters in the place of its own.

    The averaged parameters have singular vectors of their own, which the power method reaches from
    the newest ones.
    """

    def step(_: Any, spectral: Any) -> Any:
        return gan.generator.normalize(params, spectral, step=True)[1]

    spectral = jax.lax.fori_loop(0, _STEPS_OF_AVERAGES, step, variables[COLLECTION])
    return {**variables, "params": params, COLLECTION: spectral}


def with_standing_statistics(
    gan: Gan, variables: Mapping[str, Any], key: jax.Array, *, num_passes: int, pass_size: int
) -> dict[str, Any]:
    """Replaces `batch_stats` by the mean of those of `num_passes` batches of fresh noise.

    Variables without `batch_stats` come back as they are, and so do all where `num_passes` is 0.

    Args:
      gan: Both players.
      variables: Variables of the generator.
      key: Typed PRNG key.
      num_passes: Number of batches.
      pass_size: Number of images of a batch; the statistics are taken over all of them together.
    """
    if "batch_stats" not in variables or not num_passes:
        return dict(variables)
    network: Any = gan.generator.network
    fields = {n: v for n, v in _STANDING_FIELDS.items() if accepts_field(network.norm_act, n)}
    network = network.clone(norm_act=functools.partial(network.norm_act, **fields))
    params, _ = gan.generator.normalize(variables["params"], variables[COLLECTION], step=False)
    start = {"params": params, "batch_stats": variables["batch_stats"]}

    def add_pass(total: Any, pass_key: jax.Array) -> tuple[Any, None]:
        z, labels = draw_inputs(jax.random.split(pass_key, pass_size), gan)
        _, updates = network.apply(start, z, labels, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, total, updates["batch_stats"]), None

    zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    total, _ = jax.lax.scan(add_pass, zeros, jax.random.split(key, num_passes))
    return {**variables, "batch_stats": jax.tree.map(lambda x: x / num_passes, total)}


def check_statistics(variables: Mapping[str, Any]) -> None:
    """Checks that the batch statistics of a generator, if it has any, are those of some batch.

    Raises:
      UserError: All of them are still those of a fresh network, means of 0 and variances of 1.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(variables.get("batch_stats", {}))]
    if leaves and all((leaf == 0).all() or (leaf == 1).all() for leaf in leaves):
        raise UserError(
            "the generator's batch statistics have never seen a batch, so that its layers would "
            "normalise nothing: call evonorm_jax.gan.sampling.with_standing_statistics first, or "
            "train a step."
        )


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws images from a generator in evaluation mode, a batch at a time.

    Attributes:
      gan: Both players.
      variables: Variables of the generator, with standing statistics where its layers have any.
      batch_size: Number of images of a batch.

    Raises:
      UserError: The batch statistics are those of a fresh network.
    """

    gan: Gan
    variables: Mapping[str, Any]
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_statistics(self.variables)

    def __call__(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns images `[N, size, size, C]`, uint8.

        Args:
          z: Noise, `[N, z_dim]`.
          labels: Classes, `[N]` integers; or weights of the classes, `[N, num_classes]` in floating
            point.

        Raises:
          UserError: A class is not one of the generator's.
        """
        z, labels = np.asarray(z, np.float32), np.asarray(labels)
        if labels.ndim == 1 and not ((labels >= 0) & (labels < self.gan.num_classes)).all():
            wrong = labels[(labels < 0) | (labels >= self.gan.num_classes)][0]
            raise UserError(
                f"class {wrong} is out of range: the generator knows 0 to "
                f"{self.gan.num_classes - 1}."
            )
        size = min(self.batch_size, len(z))
        parts = []
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            short = size - len(z[part])  # filled up, so that one program serves all
            padded = (np.concatenate([x[part], x[:short]]) for x in (z, labels))
            parts.append(np.asarray(self._draw(self.variables, *padded))[: size - short])
        return np.concatenate(parts)

    @functools.cached_property
    def _draw(self) -> Any:
        def draw(variables: Any, z: jax.Array, labels: jax.Array) -> jax.Array:
            return to_uint8(self.gan.generator.apply(variables, z, labels))

        return jax.jit(draw)
