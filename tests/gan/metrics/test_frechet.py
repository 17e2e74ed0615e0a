"""The Fréchet distance against closed forms, torch-fidelity, and what breaks other versions."""

import json

import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.gan.metrics import Moments, feature_moments, frechet_distance
from evonorm_jax.gan.metrics.frechet import check_rank
from tests.gan.metric_case import make_features
from tests.gan.record_torch_cases import FILE


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def gaussian(mean, variances, basis=None):
    basis = np.eye(len(mean)) if basis is None else basis
    return Moments(10**6, np.asarray(mean, float), basis @ np.diag(variances) @ basis.T)


def test_moments():
    features = np.random.default_rng(0).normal(3, 2, size=(50, 4)).astype(np.float32)
    moments = feature_moments(features)
    assert moments.num_samples == 50
    assert moments.mean.dtype == moments.covariance.dtype == np.float64
    np.testing.assert_allclose(moments.mean, features.astype(float).mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(float).T), rtol=1e-12)


def test_the_same_gaussian_is_at_no_distance():
    moments = feature_moments(np.random.default_rng(0).normal(size=(100, 30)))
    assert abs(frechet_distance(moments, moments)) < 1e-12


@pytest.mark.parametrize("basis", [None, rotation(5)], ids=["diagonal", "rotated"])
def test_closed_form_of_commuting_covariances(basis):
    """sum (sqrt a - sqrt b)^2 + |difference of the means|^2."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.1, 4, size=(2, 5))
    means = rng.normal(size=(2, 5))
    first, second = gaussian(means[0], a, basis), gaussian(means[1], b, basis)
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum() + np.square(means[0] - means[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-12)


def test_two_dimensions_in_closed_form():
    """tr (A B)^1/2 = sqrt(tr AB + 2 sqrt(det AB)) for two dimensions, commuting or not."""
    first = gaussian([0, 0], [4, 1])
    second = gaussian([1, 2], [9, 0.25], rotation(2, seed=3))
    product = first.covariance @ second.covariance
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 5 + 5 + 9.25 - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, abs=1e-12)


def test_less_than_full_rank():
    """Fewer samples than dimensions, and a constant feature: real, finite, symmetric."""
    rng = np.random.default_rng(2)
    first = feature_moments(np.pad(rng.normal(size=(20, 63)), ((0, 0), (0, 1))))
    second = feature_moments(rng.normal(size=(30, 64)))
    distance = frechet_distance(first, second)
    assert np.isfinite(distance)
    assert distance > 0
    assert frechet_distance(second, first) == pytest.approx(distance, rel=1e-6)


def test_float32_features_are_taken_in_float64():
    """Far from the origin float32 moments lose what float64 ones keep."""
    features = np.random.default_rng(3).normal(size=(200, 16)).astype(np.float32) + 1000
    assert abs(frechet_distance(feature_moments(features), feature_moments(features))) < 1e-9
    shifted = feature_moments(features.astype(float) + 0.5)
    distance = frechet_distance(feature_moments(features), shifted)
    assert distance == pytest.approx(16 * 0.25, rel=1e-9)


def test_torch_fidelity():
    first, second = map(feature_moments, make_features())
    with np.load(FILE) as file:
        expected = json.loads(str(file["metrics"]))["frechet_inception_distance"]
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones(5), r"shape \(5,\): expected \[N, D\]"),
        (np.ones((1, 5)), "N at least 2"),
        (np.array([[1.0], [np.nan], [np.inf]]), "2 of 3 samples have features that are not finite"),
    ],
)
def test_features_that_cannot_be(features, message):
    with pytest.raises(UserError, match=message):
        feature_moments(features)


def test_features_of_two_networks():
    one, two = (feature_moments(np.ones((3, width))) for width in (4, 5))
    with pytest.raises(UserError, match="features of 4 and of 5 numbers do not compare"):
        frechet_distance(one, two)


def test_fewer_samples_than_features():
    check_rank(feature_moments(np.eye(5)[:, :4]))
    with pytest.raises(UserError, match=r"4 samples have 4 features each.*more than 4 samples"):
        check_rank(feature_moments(np.eye(4)))
