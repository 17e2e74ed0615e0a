import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.training.tasks import means
from evonorm_jax.training.tasks.classification import classification_sums


def sums_of(logits, labels, mask):
    arrays = (np.asarray(logits, np.float32), np.asarray(labels), np.asarray(mask, np.float32))
    return {k: float(v) for k, v in classification_sums(*map(jnp.asarray, arrays)).items()}


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
    whole = means(sums_of(logits, labels, np.ones(23)), {})
    for size in (1, 5, 22):
        parts = [
            sums_of(logits[i : i + size], labels[i : i + size], np.ones(len(labels[i : i + size])))
            for i in range(0, 23, size)
        ]
        assert means({n: sum(p[n] for p in parts) for n in parts[0]}, {}) == pytest.approx(whole)
    assert whole["examples"] == 23
