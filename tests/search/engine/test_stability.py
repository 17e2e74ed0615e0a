"""Gradient ascent on kernels, with losses whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.search.engine.protocol import Stability
from evonorm_jax.search.engine.stability import worst_gradient_norm

KERNEL = jnp.array([3.0, 4.0]).reshape(1, 1, 1, 2)
PARAMS = {"conv": {"kernel": KERNEL}, "head": {"kernel": jnp.ones((2, 2))}}


class Quadratic:
    """The loss 1/2 sum(a w^2): gradient a w, Hessian diag(a)."""

    def __init__(self, curvature):
        self.curvature = jnp.array(curvature).reshape(1, 1, 1, 2)
        self.calls = 0

    def gradients(self, params, batch_stats, images, labels):
        self.calls += 1
        gradient = self.curvature * params["conv"]["kernel"]
        head = 1e20 * jnp.ones((2, 2))  # counts for nothing
        return jnp.float32(0), {"conv": {"kernel": gradient}, "head": {"kernel": head}}, {}


def worst(network, **fields):
    return worst_gradient_norm(network, PARAMS, {}, None, None, Stability(**fields))


def test_no_step_is_the_norm_of_the_gradient():
    norm, steps = worst(Quadratic([2.0, 1.0]), num_steps=0)
    assert steps == 0
    assert norm == pytest.approx(np.hypot(6, 4))


def test_ends_where_the_curvature_is_greatest():
    """|w| = 5 stays, so no gradient can exceed 5 max(a)."""
    network = Quadratic([10.0, 1.0])
    norm, steps = worst(network, num_steps=30)
    assert steps == 30
    assert network.calls == 61
    assert norm == pytest.approx(50, rel=0.01)
    assert norm <= 50.001


def test_one_step_by_hand():
    a, w = np.array([2.0, 1.0]), np.array([3.0, 4.0])
    direction = a * (a * w)
    moved = w + 0.1 * 5 * direction / np.linalg.norm(direction)
    moved *= 5 / np.linalg.norm(moved)
    norm, _ = worst(Quadratic(a), num_steps=1)
    assert norm == pytest.approx(np.linalg.norm(a * moved), rel=1e-4)


def test_stops_at_the_limit():
    norm, steps = worst(Quadratic([1e9, 1.0]), num_steps=100)
    assert norm > 1e8
    assert steps == 0


def test_no_number_is_worse_than_any():
    norm, steps = worst(Quadratic([jnp.nan, 1.0]), num_steps=100)
    assert norm == float("inf")
    assert steps == 0


def test_a_flat_gradient_is_left_alone():
    class Linear(Quadratic):
        def gradients(self, params, *rest):
            return super().gradients({"conv": {"kernel": KERNEL}}, *rest)

    norm, steps = worst(Linear([1.0, 1.0]), num_steps=5)
    assert (norm, steps) == (pytest.approx(5), 5)


def test_the_direction_is_that_of_the_exact_derivative():
    """Of a small network: the difference of two gradients against reverse mode twice."""
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(16, 3)), jnp.float32)
    kernel = jnp.array(rng.normal(size=(1, 1, 3, 4)), jnp.float32)

    def loss(kernel):
        hidden = jax.nn.silu(x @ kernel[0, 0])
        return jnp.mean(jnp.square(hidden.sum(-1) - 1))

    gradient = jax.grad(loss)
    exact = jax.grad(lambda k: jnp.linalg.norm(gradient(k)))(kernel)
    g = gradient(kernel)
    size = Stability().difference * jnp.linalg.norm(kernel) / jnp.linalg.norm(g)
    difference = gradient(kernel + size * g) - g
    cosine = jnp.sum(difference * exact) / jnp.linalg.norm(difference) / jnp.linalg.norm(exact)
    assert cosine > 0.999
