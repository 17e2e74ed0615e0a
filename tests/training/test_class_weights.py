"""Weights of classes in the loss, against what PyTorch and scikit-learn define."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import recipes
from evonorm_jax.data import create_pipeline
from evonorm_jax.errors import UserError
from evonorm_jax.models.classification import cross_entropy
from evonorm_jax.training.class_weights import find_class_weights


def test_balanced_weights_by_hand(config):
    config.balanced_classes = True
    data = types.SimpleNamespace(num_classes=3, train_labels=np.array([0, 0, 0, 0, 1, 2, 2, 2]))
    weights = find_class_weights(config, data)
    np.testing.assert_allclose(weights, [8 / (3 * 4), 8 / (3 * 1), 8 / (3 * 3)], rtol=1e-6)
    assert weights[data.train_labels].mean() == pytest.approx(1)


def test_the_digits_know_their_classes():
    config = recipes.digits("evonorm_s0")
    config.balanced_classes = True
    pipeline = create_pipeline(config.dataset, seed=0)
    weights = find_class_weights(config, pipeline)
    totals = np.bincount(pipeline.train_labels) * weights
    np.testing.assert_allclose(totals, 143.7, rtol=1e-6)


def test_classes_that_are_unknown_or_empty_are_refused(config):
    config.balanced_classes = True
    data = types.SimpleNamespace(num_classes=3, train_labels=np.array([0, 2]))
    with pytest.raises(UserError, match="class 1 has no training image"):
        find_class_weights(config, data)
    data.train_labels = None
    with pytest.raises(UserError, match="known only by reading all of its records"):
        find_class_weights(config, data)


def test_the_loss_weighs_each_term_by_its_class():
    """The sum over classes of -w_k t_k log p_k, as PyTorch has it for targets of probabilities."""
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(5, 4)), np.array([1.0, 2.0, 0.5, 3.0])
    targets = rng.dirichlet(np.ones(4), 5)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(weights * targets * log_p).sum(-1)
    loss = cross_entropy(jnp.asarray(logits), jnp.asarray(targets * weights))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
