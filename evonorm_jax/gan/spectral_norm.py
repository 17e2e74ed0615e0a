"""Spectral normalisation of a whole network: every kernel over its largest singular value.

A kernel `[..., C_out]` counts as a matrix W `[K, C_out]`. One step of the power method

    v = W u / |W u|        u = W^T v / |W^T v|        sigma = v^T W u

gives sigma, which is the largest singular value from below; u and v are kept in the collection
`spectral`, float32 whatever the network computes in, and count as constants in the gradient.
Source: Miyato et al. 2018 (arXiv:1802.05957), section 2 and appendix A; BigGAN (arXiv:1809.11096,
appendix C) takes one step for each forward pass in training, of generator and discriminator alike.

The kernels are normalised before the network runs, those of one shape together: a BigGAN-deep for
128 pixels has 126 of 27 shapes in its generator, and 126 power iterations one by one are most of
what there is to compile. So the layers are plain ones, and the network knows nothing of all this.

Why not `flax.linen.SpectralNorm`: it keeps its vectors in `batch_stats`, which are averaged over
devices and over time; it multiplies at the default precision, bfloat16 on TPU; its first sigma is
that of a random vector, 29 % short at 32x64; and evaluation still takes a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import lax

from evonorm_jax.gan.orthogonal import host_rng

#: The collection of u and v.
COLLECTION = "spectral"

# Steps before training: a random u needs 6 to come within 1 % of sigma at 32x64.
_INITIAL_STEPS = 15

_Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SpectralNorm:
    """A network whose kernels are normalised before it runs; called as the network itself.

    Attributes:
      network: a Linen module.
      names: what the parameters to normalise are called, by their last name.
      epsilon: least norm that a vector of the power method is divided by.

    >>> layer = SpectralNorm(nn.Dense(3))
    >>> x = jnp.ones((2, 4))
    >>> variables = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, variables["spectral"])
    {'kernel': {'u': (3,), 'v': (4,)}}
    >>> y = layer.apply(variables, x)  # evaluation: sigma from u and v as they are
    >>> y, updates = layer.apply(variables, x, mutable=["spectral"])  # training: one step
    """

    network: nn.Module
    names: tuple[str, ...] = ("kernel",)
    epsilon: float = 1e-6

    def init(self, key: jax.Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The variables of the network, and `spectral` after 15 steps of the power method.

        Nothing of the forward pass is computed or compiled, so `args` may be shapes.

        Args:
          key: a PRNG key.
          *args: of the network, as arrays or `jax.ShapeDtypeStruct`.
          **kwargs: of the network.
        """
        variables = self.network.lazy_init(key, *args, **kwargs)
        return {**variables, COLLECTION: self.initial_vectors(key, variables["params"])}

    def initial_vectors(self, key: jax.Array, params: Mapping[str, Any]) -> dict[str, Any]:
        """u and v of these parameters, from random vectors by 15 steps of the power method."""
        rng = host_rng(key)
        vectors = {
            (*path, "u"): rng.standard_normal(kernel.shape[-1], np.float32)
            for path, kernel in self._kernels(params).items()
        }
        return self.iterate(params, traverse_util.unflatten_dict(vectors), _INITIAL_STEPS)

    def iterate(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any], num_steps: int
    ) -> dict[str, Any]:
        """u and v after more steps, e.g. for averaged parameters, which have none of their own.

        Computed on the host, so that a few steps between others need no program of their own.
        """
        vectors = traverse_util.flatten_dict(spectral)
        result = {}
        for path, kernel in self._kernels(params).items():
            w = np.asarray(kernel, np.float32).reshape(-1, kernel.shape[-1])
            u = np.asarray(vectors[*path, "u"])
            for _ in range(num_steps):
                v = w @ u
                v /= max(np.linalg.norm(v), self.epsilon)
                u = v @ w
                u /= max(np.linalg.norm(u), self.epsilon)
            result |= {(*path, "u"): jnp.asarray(u), (*path, "v"): jnp.asarray(v)}
        return traverse_util.unflatten_dict(result)

    def normalize(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any], *, step: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parameters with normalised kernels, and u and v, after a step where `step` is set."""
        flat = traverse_util.flatten_dict(params)
        vectors = {}
        for paths, w, u, v in self._groups(self._kernels(params), spectral):
            if step:
                u, v = self._step(lax.stop_gradient(w), u)
            u, v = lax.stop_gradient((u, v))
            sigma = jnp.einsum("gk,gkc,gc->g", v, w, u, precision=lax.Precision.HIGHEST)
            w = w / sigma[:, None, None]
            flat |= {path: w[i].reshape(flat[path].shape) for i, path in enumerate(paths)}
            vectors |= _unstack_vectors(paths, u, v)
        return traverse_util.unflatten_dict(flat), traverse_util.unflatten_dict(vectors)

    def largest_singular_value(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any]
    ) -> jax.Array:
        """The largest sigma of all kernels, before they are normalised; a float32 scalar."""
        sigmas = [
            jnp.einsum("gk,gkc,gc->g", v, w, u, precision=lax.Precision.HIGHEST)
            for _, w, u, v in self._groups(self._kernels(params), spectral)
        ]
        return jnp.max(jnp.concatenate(sigmas))

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        mutable: str | Sequence[str] | Literal[False] = False,
        **kwargs: Any,
    ) -> Any:
        """What the network computes with normalised kernels.

        Args:
          variables: those of `init`.
          *args: of the network.
          mutable: names of the collections to update. With "spectral" among them a step of the
            power method is taken and returned; without, sigma comes from u and v as they are.
          **kwargs: of the network, and of its `apply`.

        Returns:
          The output; with a dict of the changed collections where `mutable` is given.
        """
        names = [mutable] if isinstance(mutable, str) else list(mutable or ())
        step = COLLECTION in names
        params, spectral = self.normalize(variables["params"], variables[COLLECTION], step=step)
        variables = {**variables, "params": params}
        variables.pop(COLLECTION)
        if not names:
            return self.network.apply(variables, *args, **kwargs)
        rest = [name for name in names if name != COLLECTION]
        y, updates = self.network.apply(variables, *args, mutable=rest, **kwargs)
        return y, {**updates, COLLECTION: spectral} if step else updates

    def _kernels(self, params: Mapping[str, Any]) -> dict[_Path, jax.Array]:
        flat = traverse_util.flatten_dict(params)
        return {path: leaf for path, leaf in flat.items() if path[-1] in self.names}

    def _groups(
        self, kernels: Mapping[_Path, jax.Array], spectral: Mapping[str, Any]
    ) -> Iterator[tuple[list[_Path], jax.Array, jax.Array, jax.Array]]:
        """Paths, W `[G, K, C]`, u `[G, C]` and v `[G, K]` of the kernels of each shape."""
        vectors = traverse_util.flatten_dict(spectral)
        by_shape: dict[tuple[int, int], list[_Path]] = {}
        for path, kernel in kernels.items():
            columns = kernel.shape[-1]
            by_shape.setdefault((kernel.size // columns, columns), []).append(path)
        for shape, paths in by_shape.items():
            w = jnp.stack([kernels[path].reshape(shape) for path in paths])
            u, v = (jnp.stack([vectors[*path, name] for path in paths]) for name in ("u", "v"))
            yield paths, w.astype(jnp.float32), u, v

    def _step(self, w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of the power method, u and v."""

        def unit(x: jax.Array) -> jax.Array:
            return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), self.epsilon)

        v = unit(jnp.einsum("gkc,gc->gk", w, u, precision=lax.Precision.HIGHEST))
        u = unit(jnp.einsum("gkc,gk->gc", w, v, precision=lax.Precision.HIGHEST))
        return u, v


def _unstack_vectors(
    paths: list[_Path], u: jax.Array, v: jax.Array
) -> dict[tuple[str, ...], jax.Array]:
    return {
        (*path, name): vector[i]
        for i, path in enumerate(paths)
        for name, vector in (("u", u), ("v", v))
    }
