"""Orthogonal initialisation, drawn on the host.

A kernel `[..., C_out]` is a matrix `[K, C_out]` with orthonormal columns or, where it is wider than
high, rows (Saxe et al. 2014, arXiv:1312.6120; for BigGAN arXiv:1809.11096, section 3). Compiling
the QR decompositions of all kernels of a BigGAN, which `nn.initializers.orthogonal` needs, takes
longer than anything else before the first step. NumPy computes them without compiling.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.gan.host import key_data, numpy_rng, on_host


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws an orthogonal kernel; an initializer for Flax.

    The numbers are the same under `jit`, where the initializer is a call to the host.

    >>> kernel = orthogonal(jax.random.key(0), (3, 3, 2, 4)).reshape(-1, 4)
    >>> bool(jnp.allclose(kernel.T @ kernel, jnp.eye(4), atol=1e-6))
    True
    """
    drawn = on_host(
        functools.partial(_draw, shape=shape),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        key_data(key),
    )
    return drawn.astype(dtype)


def _draw(key_data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = math.prod(shape[:-1]), shape[-1]
    normal = numpy_rng(key_data).standard_normal((max(rows, columns), min(rows, columns)))
    # Q of the QR decomposition with a positive diagonal of R, by the Cholesky factor R^T of the
    # Gram matrix: matrix products, which take a fifth of the time of Householder's reflections.
    # Squaring the condition number leaves 1e-9 of the float64 of a square 2048x2048.
    factor = np.linalg.cholesky(normal.T @ normal)
    q = normal @ np.linalg.inv(factor).T
    return np.float32(q if rows >= columns else q.T).reshape(shape)
