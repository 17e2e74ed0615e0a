"""Spectral normalisation of a whole network: every kernel is divided by its largest singular value.

A kernel `[..., C_out]` counts as a matrix W `[K, C_out]`. One step of the power method

    v = W u / |W u|        u = W^T v / |W^T v|        sigma = v^T W u

gives sigma, which approaches the largest singular value from below. The vectors u and v are kept in
the collection `spectral`, in float32 whatever the network computes in, and count as constants in
the gradient. Source: Miyato et al. 2018 (arXiv:1802.05957), section 2 and appendix A. BigGAN
(arXiv:1809.11096, appendix C) takes one step for each forward pass in training, in generator and
discriminator alike.

The kernels are normalised before the network runs, and those of one shape together. A BigGAN-deep
for 128 pixels has 126 kernels of 27 shapes in its generator alone, and separate power steps would
be most of the program to compile. So the layers are plain ones that do not know of the
normalisation.

`flax.linen.SpectralNorm` does not serve here for four reasons. It keeps its vectors in
`batch_stats`, which are averaged over devices and over time. It multiplies at the default
precision, bfloat16 on TPU. Its first sigma is that of a random vector, 29 % short at 32x64. And its
evaluation still takes a step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import lax

from evonorm_jax.gan.host import key_data, numpy_rng, on_host

#: The collection of u and v.
COLLECTION = "spectral"

# Steps before training: a random u needs 6 to come within 1 % of sigma at 32x64.
_INITIAL_STEPS = 15

_Path = tuple[str, ...]
_Vectors = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class SpectralNorm:
    """A network with kernels that are normalised before it runs; it is called like the network.

    The collection `spectral` has an entry for each shape KxC of kernels, with u `[G, C]` and v
    `[G, K]` of the G kernels of that shape, in the order of their paths.

    Attributes:
      network: Linen module to normalise.
      names: Names of the parameters to normalise, the last parts of their paths.
      epsilon: Least norm that a vector of the power method is divided by, and least sigma.

    >>> layer = SpectralNorm(nn.Dense(3))
    >>> x = jnp.ones((2, 4))
    >>> variables = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, variables["spectral"])
    {'4x3': {'u': (1, 3), 'v': (1, 4)}}
    >>> y = layer.apply(variables, x)  # evaluation: sigma from u and v as they are
    >>> y, updates = layer.apply(variables, x, mutable=["spectral"])  # training: one step
    """

    network: nn.Module
    names: tuple[str, ...] = ("kernel",)
    epsilon: float = 1e-6

    def init(self, key: jax.Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Initialises the variables of the network, and `spectral` by 15 steps of the power method.

        Nothing of the forward pass is computed or compiled, so `args` may be shapes.

        Args:
          key: PRNG key.
          *args: Arguments of the network, as arrays or `jax.ShapeDtypeStruct`.
          **kwargs: Keyword arguments of the network.
        """
        variables = self.network.lazy_init(key, *args, **kwargs)
        return {**variables, COLLECTION: self.initial_vectors(key, variables["params"])}

    def initial_vectors(self, key: jax.Array, params: Mapping[str, Any]) -> _Vectors:
        """Computes u and v of these parameters by 15 power steps from random vectors."""

        def draw(key_data: np.ndarray, params: Any) -> _Vectors:
            rng = numpy_rng(key_data)
            start = {
                name: {vector: rng.standard_normal(shape.shape) for vector, shape in both.items()}
                for name, both in self.vector_shapes(params).items()
            }
            return self._iterate(params, start, _INITIAL_STEPS)

        return on_host(draw, self.vector_shapes(params), key_data(key), params)

    def iterate(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any], num_steps: int
    ) -> _Vectors:
        """Returns u and v after `num_steps` more steps of the power method.

        Averaged parameters, for example, need such steps, because they have no vectors of their
        own. The host computes the steps, so that they need no compiled program of their own.
        """
        run = functools.partial(self._iterate, num_steps=num_steps)
        return on_host(run, self.vector_shapes(params), params, spectral)

    def _iterate(self, params: Any, spectral: Any, num_steps: int) -> _Vectors:
        """Does the work of `iterate` on NumPy arrays."""
        flat = traverse_util.flatten_dict(params)
        result: _Vectors = {}
        for name, paths in self.groups(params).items():
            us, vs = (np.array(spectral[name][vector], np.float32) for vector in ("u", "v"))
            for path, u, v in zip(paths, us, vs, strict=True):
                w = np.asarray(flat[path], np.float32).reshape(len(v), len(u))
                for _ in range(num_steps):
                    v[:] = w @ u
                    v /= max(np.linalg.norm(v), self.epsilon)
                    u[:] = v @ w
                    u /= max(np.linalg.norm(u), self.epsilon)
            result[name] = {"u": us, "v": vs}
        return result

    def normalize(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any], *, step: bool
    ) -> tuple[dict[str, Any], _Vectors]:
        """Returns the parameters with normalised kernels, and u and v.

        If `step` is True, a step of the power method updates u and v first.
        """
        flat = traverse_util.flatten_dict(params)
        vectors: _Vectors = {}
        for name, paths in self.groups(params).items():
            w = _stack(flat, paths, name)
            u, v = spectral[name]["u"], spectral[name]["v"]
            if step:
                u, v, sigma = self._step(w, u)
            else:
                sigma = jnp.maximum(_sigma(w, u, v), self.epsilon)
            inverse = 1 / sigma
            for i, path in enumerate(paths):
                kernel = flat[path].reshape(w.shape[1:])
                flat[path] = _scale(kernel, inverse[i], u[i], v[i]).reshape(flat[path].shape)
            vectors[name] = {"u": u, "v": v}
        return traverse_util.unflatten_dict(flat), vectors

    def largest_singular_value(
        self, params: Mapping[str, Any], spectral: Mapping[str, Any]
    ) -> jax.Array:
        """Returns the largest sigma of all kernels before normalisation, a float32 scalar."""
        flat = traverse_util.flatten_dict(params)
        sigmas = [
            _sigma(_stack(flat, paths, name), spectral[name]["u"], spectral[name]["v"])
            for name, paths in self.groups(params).items()
        ]
        return jnp.max(jnp.concatenate(sigmas))

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        mutable: str | Sequence[str] | Literal[False] = False,
        **kwargs: Any,
    ) -> Any:
        """Applies the network with normalised kernels.

        Args:
          variables: Variables as `init` returns them.
          *args: Arguments of the network.
          mutable: Names of the collections to update. With "spectral" among them, a step of the
            power method is taken and the new u and v are returned. Without it, sigma comes from
            u and v as they are.
          **kwargs: Keyword arguments of the network and of its `apply`.

        Returns:
          The output of the network. If `mutable` is given, a dictionary of the updated collections
          comes with it.
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

    def groups(self, params: Mapping[str, Any]) -> dict[str, list[_Path]]:
        """Returns the paths of the kernels of each shape KxC, in order.

        >>> layer = SpectralNorm(nn.Dense(3))
        >>> layer.groups({"a": {"kernel": np.ones((2, 2, 1, 3))}, "b": {"kernel": np.ones((4, 3))}})
        {'4x3': [('a', 'kernel'), ('b', 'kernel')]}
        """
        groups: dict[str, list[_Path]] = {}
        for path, kernel in sorted(traverse_util.flatten_dict(params).items()):
            if path[-1] in self.names:
                columns = kernel.shape[-1]
                groups.setdefault(f"{kernel.size // columns}x{columns}", []).append(path)
        return groups

    def vector_shapes(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the shapes and dtypes of the collection `spectral` for these parameters."""
        shapes = {}
        for name, paths in self.groups(params).items():
            rows, columns = map(int, name.split("x"))
            shapes[name] = {
                "u": jax.ShapeDtypeStruct((len(paths), columns), jnp.float32),
                "v": jax.ShapeDtypeStruct((len(paths), rows), jnp.float32),
            }
        return shapes

    def _step(self, w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Takes one step of the power method for W `[G, K, C]`; returns u, v and sigma `[G]`."""
        wu = jnp.einsum("gkc,gc->gk", w, u, precision=lax.Precision.HIGHEST)
        norm = jnp.maximum(jnp.linalg.norm(wu, axis=-1), self.epsilon)
        v = wu / norm[:, None]
        vw = jnp.einsum("gkc,gk->gc", w, v, precision=lax.Precision.HIGHEST)
        sigma = jnp.maximum(jnp.linalg.norm(vw, axis=-1), self.epsilon)
        return vw / sigma[:, None], v, sigma


def _stack(flat: Mapping[_Path, jax.Array], paths: list[_Path], name: str) -> jax.Array:
    """Stacks the kernels of one shape to `[G, K, C]`, without their gradient."""
    shape = tuple(map(int, name.split("x")))
    kernels = [flat[path].astype(jnp.float32).reshape(shape) for path in paths]
    return lax.stop_gradient(jnp.stack(kernels))


def _sigma(w: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    wu = jnp.einsum("gkc,gc->gk", w, u, precision=lax.Precision.HIGHEST)
    return jnp.sum(v * wu, axis=-1)


@jax.custom_vjp
def _scale(w: jax.Array, inverse: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """Returns W / sigma, where `inverse` is 1 / sigma and the gradient takes sigma = v^T W u.

    The derivative written out by hand has a third of the operations that JAX would derive.
    """
    del u, v
    return w * inverse


def _scale_fwd(w: jax.Array, inverse: jax.Array, u: jax.Array, v: jax.Array) -> Any:
    return w * inverse, (w, inverse, u, v)


def _scale_bwd(residuals: Any, dy: jax.Array) -> tuple[jax.Array, None, None, None]:
    w, inverse, u, v = residuals
    along = jnp.sum(dy * w) * inverse
    return (dy - along * v[:, None] * u) * inverse, None, None, None


_scale.defvjp(_scale_fwd, _scale_bwd)
