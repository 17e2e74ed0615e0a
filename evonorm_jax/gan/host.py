"""What is drawn and computed by NumPy, on the host, at initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def on_host(function: Callable[..., Any], result: Any, *args: Any) -> Any:
    """`function` of NumPy arrays, at once; where an argument is traced, when the program runs.

    Args:
      function: takes and returns PyTrees of NumPy arrays.
      result: its shapes and dtypes, as `jax.ShapeDtypeStruct`.
      *args: PyTrees of arrays.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
        return jax.pure_callback(
            lambda *args: function(*jax.tree.map(np.asarray, args)), result, *args
        )
    # Not jnp.asarray: inside `lazy_init` that makes constants of jax 0.10 that are no jax.Array.
    return jax.device_put(function(*jax.tree.map(np.asarray, args)))


def key_data(key: jax.Array) -> jax.Array:
    """The numbers of a PRNG key, of either kind that JAX has."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def numpy_rng(key_data: np.ndarray) -> np.random.Generator:
    """The generator that the numbers of a PRNG key start."""
    return np.random.Generator(np.random.Philox(key_data.ravel().tolist()))
