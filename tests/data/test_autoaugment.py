"""AutoAugment: which operations are applied, how often, and how strongly."""

import collections

import numpy as np
import pytest

from tests.data.conftest import smooth_image

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def aa():
    from evonorm_jax.data import autoaugment

    return autoaugment


@pytest.fixture(scope="module")
def picture():
    import tensorflow as tf

    pixels = smooth_image(3, 16, 16) * [0.5, 0.7, 0.8] + [40, 5, 10]
    return tf.constant(pixels.astype(np.uint8))


def seeds(count):
    return [np.array([5, number], np.int64) for number in range(count)]


def test_the_policy_is_the_published_one(aa):
    assert len(aa.POLICY) == 25
    steps = [step for pair in aa.POLICY for step in pair]
    assert {step.operation for step in steps} <= set(aa.OPERATIONS)
    assert sum(step.probability for step in steps) == pytest.approx(29.8)
    assert sum(step.magnitude for step in steps) == pytest.approx(240 + 22.5 - 9)
    # Counted in the authors' code.
    assert collections.Counter(step.operation for step in steps) == {
        "equalize": 12,
        "color": 9,
        "solarize": 8,
        "rotate": 7,
        "shear_y": 4,
        "shear_x": 2,
        "solarize_add": 2,
        "posterize": 2,
        "autocontrast": 2,
        "invert": 1,
        "translate_y": 1,
    }


def test_every_pair_keeps_shape_and_dtype_and_is_deterministic(aa, picture):
    for pair in aa.POLICY:
        (seed,) = seeds(1)
        first = aa.apply_pair(pair, picture, seed)
        assert (first.shape, first.dtype) == ((16, 16, 3), "uint8")
        np.testing.assert_array_equal(first, aa.apply_pair(pair, picture, seed))


def test_operations_follow_one_another_with_their_probability(aa, picture):
    import tensorflow as tf

    pair = (aa.Step("invert", 0.8, 9), aa.Step("solarize_add", 0.3, 5))
    inverted = 255 - picture.numpy()

    def brightened(pixels):  # int(11 * 5) = 55 more, where that stays below 256
        return np.where(pixels < 128, pixels + 55, pixels).astype(np.uint8)

    outcomes = {
        (False, False): picture.numpy(),
        (True, False): inverted,
        (False, True): brightened(picture.numpy()),
        (True, True): brightened(inverted),
    }
    apply = tf.function(lambda seed: aa.apply_pair(pair, picture, seed))
    counts = collections.Counter()
    for seed in seeds(400):
        result = apply(tf.constant(seed)).numpy()
        (outcome,) = (key for key, pixels in outcomes.items() if (result == pixels).all())
        counts[outcome] += 1
    # Standard errors of at most 10 of 400.
    expected = {(False, False): 56, (True, False): 224, (False, True): 24, (True, True): 96}
    assert all(abs(counts[key] - expected[key]) < 50 for key in expected)
    assert min(counts.values()) > 4


def test_probabilities_0_and_1(aa, picture):
    never = (aa.Step("invert", 0.0, 9), aa.Step("invert", 0.0, 9))
    always = (aa.Step("invert", 1.0, 9), aa.Step("solarize", 0.0, 0))
    for seed in seeds(5):
        np.testing.assert_array_equal(aa.apply_pair(never, picture, seed), picture)
        np.testing.assert_array_equal(aa.apply_pair(always, picture, seed), 255 - picture)


def test_translation_is_250_pixels_of_224_at_strength_10(aa, picture):
    (step,) = (step for pair in aa.POLICY for step in pair if step.operation == "translate_y")
    pixels = np.zeros((224, 8, 3), np.uint8)
    import tensorflow as tf

    # 225 of 224 pixels at strength 9: the image leaves and grey is left, as in the authors' code.
    moved = aa.OPERATIONS["translate_y"](tf.constant(pixels), step.magnitude, seeds(1)[0])
    assert set(np.unique(moved)) == {128}
    moved = aa.OPERATIONS["translate_y"](tf.constant(pixels), 2.5, seeds(1)[0])
    assert (moved.numpy() == 128).all(axis=(1, 2)).sum() == 25


def test_pairs_are_drawn(aa, picture):
    import tensorflow as tf

    augment = tf.function(lambda seed: aa.auto_augment(picture, seed))
    results = {augment(tf.constant(seed)).numpy().tobytes() for seed in seeds(60)}
    assert len(results) > 25
    seed = tf.constant(seeds(1)[0])
    np.testing.assert_array_equal(augment(seed), augment(seed))
