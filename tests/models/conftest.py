"""Variables for the tests of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """All networks of this folder."""


@pytest.fixture
def random_variables():
    """A function `(module, x) -> variables` with every value random, so that all matter.

    The initial values themselves cost two to four seconds to compile for each network.
    """

    def draw(module, x):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)

        def leaf(path, shape):
            noise = rng.standard_normal(shape.shape)
            name = path[-1].key
            if name == "kernel":
                value = noise * np.prod(shape.shape[:-1]) ** -0.5
            elif name in ("var", "mean_square", "scale"):
                value = np.exp(0.3 * noise)  # positive, about 1
            else:
                value = 0.3 * noise
            return jnp.asarray(value, shape.dtype)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return draw
