"""Stochastic depth: only in training, whole images, and the mean stays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.models.stochastic_depth import linear_survival, stochastic_depth


class Branch(nn.Module):
    survival_probability: float

    @nn.compact
    def __call__(self, x, train):
        return stochastic_depth(x, self.survival_probability, train)


def test_whole_images_are_dropped_and_the_others_scaled():
    x = jax.random.normal(jax.random.key(0), (4096, 2, 1, 3))
    y = Branch(0.8).apply({}, x, True, rngs={"dropout": jax.random.key(1)})
    survived = np.abs(y).max(axis=(1, 2, 3)) > 0
    # The share has a standard error of sqrt(0.8 * 0.2 / 4096) = 0.006.
    assert abs(survived.mean() - 0.8) < 0.025
    np.testing.assert_allclose(y[survived], x[survived] / 0.8, rtol=1e-6)
    assert not y[~survived].any()


@pytest.mark.parametrize(("probability", "train"), [(0.8, False), (1.0, True)])
def test_nothing_happens_without_an_rng(probability, train):
    x = jnp.ones((4, 2, 2, 3))
    np.testing.assert_array_equal(Branch(probability).apply({}, x, train), x)


def test_bfloat16_stays():
    x = jnp.ones((8, 1, 1, 1), jnp.bfloat16)
    y = Branch(0.5).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    assert y.dtype == jnp.bfloat16
    assert set(np.unique(y.astype("float32"))) == {0.0, 2.0}


def test_linear_rule():
    # EfficientNet-B0 has 16 blocks: the last is left out of 0.2 * 15 / 16 of the steps.
    assert linear_survival(0.8, 0, 16) == 1.0
    assert linear_survival(0.8, 15, 16) == pytest.approx(1 - 0.2 * 15 / 16)
    assert {linear_survival(1.0, index, 16) for index in range(16)} == {1.0}
