"""Augmentation against plain numpy indexing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.data import augment


def image(height=6, width=6, channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (height, width, channels), np.uint8)


def windows(picture, size, pad):
    """Every window that a crop may take, by offset."""
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)))
    rows, columns = padded.shape[0] - size + 1, padded.shape[1] - size + 1
    return {
        (top, left): padded[top : top + size, left : left + size]
        for top in range(rows)
        for left in range(columns)
    }


@pytest.mark.parametrize(
    ("size", "pad", "number"), [(6, 1, 9), (4, 0, 9), (4, 1, 25), (6, 0, 1), (1, 0, 36)]
)
def test_crops_are_all_the_windows_with_equal_probability(size, pad, number):
    picture, draws = image(), 3000
    keys = jax.random.split(jax.random.key(0), draws)
    crops = jax.jit(jax.vmap(lambda key: augment.random_crop(key, picture, size, pad)))(keys)
    assert crops.dtype == jnp.uint8
    expected = windows(picture, size, pad)
    assert len(expected) == number
    counts = {
        offset: int((np.asarray(crops) == window).all(axis=(1, 2, 3)).sum())
        for offset, window in expected.items()
    }
    assert sum(counts.values()) == draws
    # A count is binomial: five standard deviations around draws / number.
    deviation = np.sqrt(draws / number * (1 - 1 / number))
    assert all(abs(count - draws / number) <= 5 * deviation for count in counts.values())


def test_crop_of_an_image_that_is_not_square():
    picture = image(5, 8)
    crop = augment.random_crop(jax.random.key(1), picture, 5)
    assert any((np.asarray(crop) == window).all() for window in windows(picture, 5, 0).values())


def test_flip_mirrors_half_of_the_images():
    picture = image(2, 3)
    keys = jax.random.split(jax.random.key(0), 400)
    flipped = np.asarray(jax.vmap(lambda key: augment.random_flip(key, picture))(keys))
    mirrored = (flipped == picture[:, ::-1]).all(axis=(1, 2, 3))
    assert ((flipped == picture).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert 150 <= mirrored.sum() <= 250  # 5 standard deviations


def test_augment_without_anything_to_do_is_the_identity():
    result = augment.augment(jax.random.key(0), image(), size=6, pad=0, flip=False)
    np.testing.assert_array_equal(result, image())


def test_augment_depends_on_the_key_alone():
    keys = jax.random.split(jax.random.key(7), 8)
    pictures = np.stack([image()] * 8)

    def augment_one(key, picture):
        return augment.augment(key, picture, size=6, pad=2, flip=True)

    together = jax.vmap(augment_one)(keys, pictures)
    one = jax.jit(augment_one)
    alone = [one(key, picture) for key, picture in zip(keys, pictures, strict=True)]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert len({np.asarray(crop).tobytes() for crop in together}) > 4


def test_normalize():
    pictures = image()[None]
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    expected = (pictures.astype(np.float64) - np.array(mean)) / np.array(std)
    normalized = augment.normalize(jnp.array(pictures), mean, std)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, expected, rtol=1e-6)


# Compiled once for all probabilities.
ERASE = jax.jit(jax.vmap(augment.random_erasing, (0, None, None)))


def erased_boxes(probability, count=200, shape=(16, 24)):
    """For images of zeros: the fill, and where it is."""
    keys = jax.random.split(jax.random.key(0), count)
    image = jnp.zeros((*shape, 2))
    filled = np.asarray(ERASE(keys, image, probability))
    return filled, (filled != 0).all(-1)


def test_erasing_fills_one_rectangle_of_the_published_sizes_with_noise():
    filled, boxes = erased_boxes(1.0)
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    np.testing.assert_array_equal(boxes.sum((1, 2)), heights * widths)  # a rectangle, in one piece
    for line in (boxes.any(2), boxes.any(1)):
        assert np.abs(np.diff(line.astype(int), axis=1)).sum(1).max() <= 2
    assert (heights < 16).all()
    assert (widths < 24).all()
    # Sides are rounded by up to half a pixel, so the area by up to half the sum of both and 1/4.
    slack = (heights + widths) / 2 + 0.25
    assert (heights * widths >= 0.02 * 16 * 24 - slack).all()
    assert (heights * widths <= 16 * 24 / 3 + slack).all()
    assert 0.12 < boxes.mean() < 0.22  # (0.02 + 0.333) / 2, some of the largest ones left out
    noise = filled[boxes]
    assert noise.size > 10_000
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_erasing_leaves_the_other_images_and_the_rest_of_an_image_alone():
    _, boxes = erased_boxes(0.25)
    assert 30 <= boxes.any((1, 2)).sum() <= 70  # 50 expected, standard deviation 6
    image = jnp.arange(6 * 6 * 1, dtype=jnp.float32).reshape(6, 6, 1) + 100  # no noise is so large
    erase = jax.jit(augment.random_erasing)
    erased = np.asarray(erase(jax.random.key(1), image, 1.0))
    kept = erased > 50
    assert 0 < kept.sum() < 36
    np.testing.assert_array_equal(erased[kept], np.asarray(image)[kept])
    np.testing.assert_array_equal(erase(jax.random.key(1), image, 0.0), image)
    pixel = jnp.ones((1, 1, 1))  # no rectangle is smaller
    np.testing.assert_array_equal(erase(jax.random.key(1), pixel, 1.0), pixel)
