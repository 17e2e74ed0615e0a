"""Suppression against the textbook loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.nms import suppress
from tests.detection import oracle

many = jax.jit(jax.vmap(suppress, in_axes=(0, 0, None)))


# 0.3 catches implementations in which a part of the loop has 0.5 written in.
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_a_thousand_random_sets(threshold):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (1000, 24, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 25, corner.shape)], axis=-1)
    boxes = boxes.astype(np.float32)
    valid = rng.uniform(size=(1000, 24)) < 0.9
    keep = many(boxes, valid, threshold)
    for result, one, ok in zip(np.asarray(keep), boxes, valid, strict=True):
        expected = oracle.greedy_suppression(one.astype(np.float64), ok, threshold)
        np.testing.assert_array_equal(np.flatnonzero(result), expected)
    assert 0.1 < np.mean(keep) < np.mean(valid) - 0.02


def test_a_chain_as_long_as_the_set():
    # Each box overlaps its neighbours alone: every second one stays, after 40 rounds.
    start = np.arange(40.0)[:, None] * 4
    boxes = np.concatenate([start, 0 * start, start + 10, 0 * start + 10], axis=1)
    keep = suppress(jnp.asarray(boxes), jnp.ones(40, bool), 0.4)
    np.testing.assert_array_equal(keep, np.arange(40) % 2 == 0)


def test_limits():
    boxes = jnp.tile(jnp.array([[0.0, 0, 4, 4]]), (5, 1))
    nothing, everything = jnp.zeros(5, bool), jnp.ones(5, bool)
    assert not suppress(boxes, nothing, 0.5).any()
    assert suppress(boxes, everything, 0.5).tolist() == [True] + 4 * [False]
    assert suppress(boxes, everything, 1.0).all()  # not more than 1 overlaps
    assert suppress(boxes, everything.at[0].set(False), 0.5).tolist() == [False, True] + 3 * [False]
