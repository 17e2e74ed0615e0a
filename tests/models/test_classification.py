import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.models.classification import cross_entropy, in_top


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    targets = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    expected = [-np.log(0.5), -0.5 * np.log(0.8) - 0.5 * np.log(0.1)]
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-6)


def test_cross_entropy_is_computed_in_float32():
    logits = jnp.array([[2.0, 0.0]], jnp.bfloat16)
    loss = cross_entropy(logits, jnp.array([[1.0, 0.0]]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-2.0))], rtol=1e-5)


def test_gradient_is_softmax_minus_target():
    logits = jnp.array([[0.3, -1.0, 2.0]])
    targets = jnp.array([[0.0, 1.0, 0.0]])
    gradient = jax.grad(lambda z: cross_entropy(z, targets)[0])(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - targets, atol=1e-6)


def test_hits_by_hand():
    # Ranks of the labels: first, fifth (behind 9, 6, 5, 4), seventh.
    logits = jnp.tile(jnp.array([9.0, 1, 2, 3, 4, 5, 6]), (3, 1))
    labels = jnp.array([0, 3, 1])
    assert in_top(logits, labels).tolist() == [True, False, False]
    assert in_top(logits, labels, 5).tolist() == [True, True, False]
    assert in_top(logits, labels, 7).tolist() == [True, True, True]


def test_ties_and_what_is_not_finite_are_no_hits():
    logits = jnp.array([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0], [jnp.nan] * 3, [jnp.inf, 0.0, 0.0]])
    assert in_top(logits, jnp.array([0, 0, 0, 0])).tolist() == [False, True, False, False]
    # The other one of two equal classes counts as one that is before it.
    assert in_top(logits, jnp.array([0, 1, 0, 0]), 2).tolist() == [True, False, False, False]
