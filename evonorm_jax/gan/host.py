"""Initialisation that NumPy draws and computes on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def on_host(function: Callable[..., Any], result: Any, *args: Any) -> Any:
    """Calls `function` on the host, with NumPy arrays in the place of those of JAX.

    The call happens at once or, where an argument is traced, when the compiled program runs.

    Args:
      function: Function that takes and returns PyTrees of NumPy arrays.
      result: Shapes and dtypes of the result, as a PyTree of `jax.ShapeDtypeStruct`.
      *args: PyTrees of arrays, the arguments of the function.

    Returns:
      The result as a PyTree of JAX arrays.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
        return jax.pure_callback(
            lambda *args: function(*jax.tree.map(np.asarray, args)), result, *args
        )
    # Not jnp.asarray: inside `lazy_init` that makes constants of jax 0.10 that are no jax.Array.
    return jax.device_put(function(*jax.tree.map(np.asarray, args)))


def key_data(key: jax.Array) -> jax.Array:
    """Returns the numbers of a PRNG key, which may be a typed key or an array of uint32."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def numpy_rng(key_data: np.ndarray) -> np.random.Generator:
    """Returns a NumPy generator that is seeded with the numbers of a PRNG key."""
    return np.random.Generator(np.random.Philox(key_data.ravel().tolist()))
