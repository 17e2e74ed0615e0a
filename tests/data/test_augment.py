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
