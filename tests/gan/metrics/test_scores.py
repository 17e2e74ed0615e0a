"""Inception Score, kernel distance, precision and recall, and the figures of classes."""

import json
import sys

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics import (
    conditional_accuracy,
    inception_score,
    kernel_distance,
    precision_recall,
    within_class_variance,
)
from tests.gan.metric_case import make_features, make_logits
from tests.gan.record_torch_cases import FILE, KERNEL


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return json.loads(str(file["metrics"]))


# Inception Score.


def test_images_that_look_alike_score_one():
    score = inception_score(np.tile(np.array([1.0, 3.0, -2.0]), (50, 1)))
    assert score == pytest.approx((1.0, 0.0), abs=1e-12)


def test_balanced_and_certain_images_score_the_number_of_classes():
    logits = 1000 * np.eye(7)[np.arange(70) % 7]
    assert inception_score(logits, num_splits=1) == pytest.approx((7.0, 0.0), abs=1e-12)


def test_two_classes_by_hand():
    """p(y|x) is (.9, .1) and (.1, .9): KL to (.5, .5) is .9 log 1.8 + .1 log .2."""
    logits = np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))
    expected = np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    assert inception_score(logits, num_splits=1).mean == pytest.approx(expected, rel=1e-12)


def test_sorted_samples_are_shuffled():
    """In parts of ten of the sorted samples every part would hold one class and score 1."""
    logits = 1000 * np.eye(10)[np.repeat(np.arange(10), 100)]
    assert inception_score(logits).mean > 9


def test_inception_score_of_torch_fidelity(recorded):
    score = inception_score(make_logits())
    assert score.mean == pytest.approx(recorded["inception_score_mean"], rel=1e-12)
    assert score.std == pytest.approx(recorded["inception_score_std"], rel=1e-9)


def test_more_parts_than_samples():
    with pytest.raises(UserError, match="num_splits=10: 3 samples make between 1 and 3 parts"):
        inception_score(np.ones((3, 2)))


# Kernel distance.


def test_kernel_distance_of_two_points_by_hand():
    """One feature: k(x, y) = (xy + 1)^3; within: k(0, 1) = 1 and k(2, 3) = 343."""
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    cross = np.mean([1, 1, 3**3, 4**3])
    expected = (2 * 1 + 2 * 343) / 2 - 2 * cross
    score = kernel_distance(x, y, num_subsets=3, subset_size=2)
    assert score == pytest.approx((expected, 0.0))


def test_kernel_distance_is_unbiased():
    """Two samples of one distribution: 0 within three standard errors, at only 40 samples."""
    rng = np.random.default_rng(0)
    draws = [
        kernel_distance(*rng.normal(size=(2, 40, 16)), num_subsets=1, subset_size=40).mean
        for _ in range(200)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))


def test_kernel_distance_of_torch_fidelity(recorded):
    size = {"num_subsets": KERNEL["kid_subsets"], "subset_size": KERNEL["kid_subset_size"]}
    score = kernel_distance(*make_features(), **size)
    assert score.mean == pytest.approx(recorded["kernel_inception_distance_mean"], rel=1e-12)
    assert score.std == pytest.approx(recorded["kernel_inception_distance_std"], rel=1e-12)


@pytest.mark.parametrize("size", [1, 51])
def test_subsets_that_cannot_be(size):
    with pytest.raises(UserError, match=rf"subsets of {size} samples: there are 60 and 50"):
        kernel_distance(*make_features(), subset_size=size)


# Precision and recall.


def test_precision_and_recall_by_hand():
    """Real points at 0, 1, 2 with balls of radius 1 about them, samples at 0.4 and 0.5.

    Both samples are in a ball: precision 1. Their own balls, of radius 0.1, hold no real point.
    """
    real = np.array([[0.0], [1.0], [2.0]])
    samples = np.array([[0.4], [0.5]])
    assert precision_recall(samples, real, num_neighbors=1) == (1.0, 0.0)
    assert precision_recall(real, samples, num_neighbors=1) == (0.0, 1.0)


def test_a_set_covers_itself_and_nothing_far_away():
    features, _ = make_features()
    assert precision_recall(features, features) == (1.0, 1.0)
    assert precision_recall(features + 100, features) == (0.0, 0.0)


def test_a_collapsed_generator_has_precision_without_recall():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 4))
    result = precision_recall(real[:1] + 1e-3 * rng.normal(size=(300, 4)), real)
    assert result.precision == 1
    assert result.recall < 0.02


def test_precision_and_recall_of_torch_fidelity(recorded):
    result = precision_recall(*make_features())
    assert result == pytest.approx((recorded["precision"], recorded["recall"]))
    assert 0.5 < result.precision < 1  # or the comparison says nothing


def test_blocks_change_nothing(monkeypatch):
    whole = precision_recall(*make_features())
    module = sys.modules["evonorm_jax.gan.metrics.precision_recall"]
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert precision_recall(*make_features()) == whole


def test_more_neighbours_than_images():
    with pytest.raises(UserError, match=r"num_neighbors=3: there are 3 samples and 9 real"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))


# Classes.


def test_conditional_accuracy():
    assert conditional_accuracy(np.eye(4), np.array([0, 1, 2, 0])) == 0.75
    with pytest.raises(UserError, match=r"labels are int64\[3\]: expected integers \[4\]"):
        conditional_accuracy(np.eye(4), np.arange(3))
    for label in (-1, 4):
        with pytest.raises(UserError, match=r"labels run from .* knows the classes 0 to 3"):
            conditional_accuracy(np.eye(4), np.array([0, 1, 2, label]))


def test_within_class_variance_by_hand():
    """Real: variance 2 in both classes. Samples: 0.5 in one, one sample alone in the other."""
    real = np.array([[-1.0], [1.0], [9.0], [11.0]])
    samples = np.array([[0.0], [1.0], [10.0]])
    result = within_class_variance(samples, np.array([0, 0, 1]), real, np.array([0, 0, 1, 1]))
    assert result == pytest.approx(0.5 / 2)


def test_pictures_all_alike_have_no_variance():
    real = np.random.default_rng(0).normal(size=(20, 3))
    labels = np.arange(20) % 2
    alike = np.array([[0.0, 1, 2], [5, 5, 5]])[labels]
    assert within_class_variance(alike, labels, real, labels) == 0
    assert within_class_variance(real, labels, real, labels) == 1
    with pytest.raises(UserError, match="the 20 real images do not vary within a class"):
        within_class_variance(real, labels, alike, labels)
