"""The pool of CPU and GPU against XLA's, value by value; both run on any device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.models.convolution import max_pool
from evonorm_jax.models.indexed_max_pool import indexed_max_pool

SHAPE = (2, 7, 8, 3)


def xla_max_pool(x, window, strides, padding):
    """Differentiated by JAX, through `select_and_scatter`."""
    sides, steps = (1, window, window, 1), (1, strides, strides, 1)
    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sides, steps, borders)


def integers(shape, highest, dtype="float32", seed=0):
    """Small whole numbers: many ties, and sums without rounding in every dtype."""
    return jnp.asarray(np.random.default_rng(seed).integers(-highest, highest + 1, shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize(("window", "padding"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)])
def test_values_and_gradients_ties_included(window, strides, padding, dtype):
    x = integers(SHAPE, 2, dtype)

    @jax.jit
    def both(x, dy):
        results = []
        for pool in (indexed_max_pool, xla_max_pool):
            y, pull = jax.vjp(lambda x, pool=pool: pool(x, window, strides, padding), x)
            results.append((y, *pull(dy)))
        return results

    y_shape = jax.eval_shape(lambda x: xla_max_pool(x, window, strides, padding), x).shape
    (y, dx), (xla_y, xla_dx) = both(x, integers(y_shape, 5, dtype, seed=1))
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, xla_y)
    np.testing.assert_array_equal(dx, xla_dx)


def test_gradient_goes_to_the_first_of_equal_values():
    x = jnp.array([[1.0, 1.0, 0.0], [2.0, 0.0, 2.0], [0.0, 2.0, 2.0]]).reshape(1, 3, 3, 1)
    dx = jax.grad(lambda x: jnp.sum(indexed_max_pool(x, 2, 1, 0)))(x)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 0, 0], [2, 0, 2], [0, 0, 0]])


def test_forward_mode_and_second_derivatives():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 5, 1)), jnp.float32)
    tangent = jnp.ones_like(x) / (1 + jnp.arange(x.size).reshape(x.shape))

    def derivatives(pool):
        def loss(x):
            return jnp.sum(jnp.sin(pool(x, 3, 2, 1)))

        def along(x):
            return jax.jvp(loss, (x,), (tangent,))[1]

        def backward_twice(x):
            return jnp.vdot(jax.grad(loss)(x), tangent)

        return along(x), jax.grad(along)(x), jax.grad(backward_twice)(x)

    ours, theirs = jax.jit(lambda: (derivatives(indexed_max_pool), derivatives(xla_max_pool)))()
    for our, their in zip(ours, theirs, strict=True):
        assert np.abs(their).max() > 0
        np.testing.assert_allclose(our, their, rtol=1e-6, atol=1e-7)


def test_nan_is_passed_on():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 2, 1].set(jnp.nan)
    y, _ = jax.vjp(lambda x: indexed_max_pool(x, 2, 2, 0), x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 0], [jnp.nan, 0]])


def test_keeps_one_byte_an_output_for_the_gradient():
    x = jnp.ones(SHAPE)

    def residuals(pool):
        _, pull = jax.eval_shape(lambda x: jax.vjp(lambda x: pool(x, 3, 2, 1), x), x)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    outputs = indexed_max_pool(x, 3, 2, 1).size
    assert residuals(indexed_max_pool) == outputs
    assert residuals(xla_max_pool) >= x.nbytes


def test_tpus_alone_do_without_it():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 3, 2)))).trace(jnp.ones(SHAPE))
    found = {
        platform: "select_and_scatter" in gradient.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    assert found == {"cpu": False, "cuda": False, "rocm": False, "tpu": True}
