import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.training.metrics import classification_sums, cross_entropy, mean_metrics


def sums_of(logits, labels, mask):
    arrays = (np.asarray(logits, np.float32), np.asarray(labels), np.asarray(mask, np.float32))
    return {k: float(v) for k, v in classification_sums(*map(jnp.asarray, arrays)).items()}


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


def test_sums_by_hand():
    logits = [[9, 1, 2, 3, 4, 5, 6], [9, 1, 2, 3, 4, 5, 6], [9, 1, 2, 3, 4, 5, 6]]
    # ranks of the labels: first, fifth (behind 9, 6, 5, 4), seventh
    sums = sums_of(logits, [0, 3, 1], [1, 1, 1])
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_padding_adds_nothing_even_when_not_finite():
    real = sums_of([[1.0, 2.0], [3.0, 0.5]], [1, 0], [1, 1])
    padded = sums_of([[1.0, 2.0], [3.0, 0.5], [np.nan, np.inf]], [1, 0, 0], [1, 1, 0])
    assert padded == pytest.approx(real)


def test_ties_and_nan_are_no_hits():
    assert sums_of([[1.0, 1.0]], [0], [1])["top1"] == 0
    assert sums_of([[np.nan, np.nan]], [0], [1])["top1"] == 0


def test_five_classes_have_no_top5():
    assert "top5" not in sums_of(np.zeros((1, 5)), [0], [1])


def test_means_do_not_depend_on_how_the_examples_were_batched():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(23, 6)), rng.integers(0, 6, 23)
    whole = mean_metrics([sums_of(logits, labels, np.ones(23))], "eval")
    for size in (1, 5, 22):
        parts = [
            sums_of(logits[i : i + size], labels[i : i + size], np.ones(len(labels[i : i + size])))
            for i in range(0, 23, size)
        ]
        assert mean_metrics(parts, "eval") == pytest.approx(whole, rel=1e-6)
    assert whole["eval/examples"] == 23


def test_gradient_is_softmax_minus_target():
    logits = jnp.array([[0.3, -1.0, 2.0]])
    targets = jnp.array([[0.0, 1.0, 0.0]])
    gradient = jax.grad(lambda z: cross_entropy(z, targets)[0])(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - targets, atol=1e-6)
