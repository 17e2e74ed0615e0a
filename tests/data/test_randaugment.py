"""RandAugment: each operation against Pillow or plain numpy."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.data.conftest import smooth_image

pytestmark = pytest.mark.tensorflow

NAMES = (
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "cutout",
    "equalize",
    "invert",
    "posterize",
    "rotate",
    "sharpness",
    "shear_x",
    "shear_y",
    "solarize",
    "solarize_add",
    "translate_x",
    "translate_y",
)


@pytest.fixture(scope="module")
def ra():
    from evonorm_jax.data import randaugment

    return randaugment


@pytest.fixture(scope="module")
def pixels():
    """Uneven channels that do not span 0 ... 255, so that no operation is trivial."""
    noise = np.random.default_rng(0).integers(0, 30, (32, 32, 3))
    return (smooth_image(3, 32, 32) * [0.5, 0.7, 0.8] + noise + [40, 5, 10]).astype(np.uint8)


@pytest.fixture(scope="module")
def picture(pixels):
    import tensorflow as tf

    return tf.constant(pixels)


def difference(result, expected):
    return np.abs(result.numpy().astype(int) - np.asarray(expected).astype(int)).max()


def test_the_table_is_complete(ra):
    assert tuple(sorted(ra.OPERATIONS)) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0, 5, 9.5, 17, 30])
def test_every_operation_keeps_shape_and_dtype_and_is_deterministic(ra, picture, name, magnitude):
    seed = np.array([1, 2], np.int64)
    first = ra.OPERATIONS[name](picture, magnitude, seed)
    assert (first.shape, first.dtype) == ((32, 32, 3), "uint8")
    np.testing.assert_array_equal(first, ra.OPERATIONS[name](picture, magnitude, seed))


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [("rotate", 0), ("shear_x", 0), ("shear_y", 0), ("translate_x", 0), ("translate_y", 0)]
    + [("cutout", 0), ("solarize_add", 0), ("solarize", 10), ("posterize", 20)]
    + [(name, 5) for name in ("color", "contrast", "brightness", "sharpness")],
)
def test_magnitudes_that_change_nothing(ra, picture, pixels, name, magnitude):
    result = ra.OPERATIONS[name](picture, magnitude, np.array([1, 2], np.int64))
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_does_something(ra, picture, pixels, name):
    result = ra.OPERATIONS[name](picture, 4, np.array([1, 2], np.int64))
    assert (result.numpy() != pixels).any()


def test_strengths_at_magnitude_9(ra, picture, pixels):
    image, seed = Image.fromarray(pixels), np.array([1, 2], np.int64)
    operations = ra.OPERATIONS
    assert difference(operations["posterize"](picture, 9, seed), ImageOps.posterize(image, 3)) == 0
    assert difference(operations["solarize"](picture, 9, seed), ImageOps.solarize(image, 230)) == 0
    bright = ImageEnhance.Brightness(image).enhance(0.1 + 0.18 * 9)
    assert difference(operations["brightness"](picture, 9, seed), bright) <= 1


@pytest.mark.parametrize("operation", ["autocontrast", "equalize", "invert"])
def test_without_strength_against_pillow(ra, picture, pixels, operation):
    expected = getattr(ImageOps, operation)(Image.fromarray(pixels))
    assert difference(getattr(ra, operation)(picture), expected) == 0


def test_flat_channels_stay(ra):
    import tensorflow as tf

    flat = np.full((8, 8, 3), (0, 100, 255), np.uint8)
    np.testing.assert_array_equal(ra.autocontrast(tf.constant(flat)), flat)
    np.testing.assert_array_equal(ra.equalize(tf.constant(flat)), flat)


@pytest.mark.parametrize("bits", [1, 3, 7, 8])
def test_posterize_against_pillow(ra, picture, pixels, bits):
    expected = ImageOps.posterize(Image.fromarray(pixels), bits)
    assert difference(ra.posterize(picture, bits), expected) == 0


def test_posterize_to_no_bits_is_black(ra, picture):
    assert ra.posterize(picture, 0).numpy().max() == 0


@pytest.mark.parametrize("threshold", [0, 100, 255, 256])
def test_solarize_against_pillow(ra, picture, pixels, threshold):
    expected = ImageOps.solarize(Image.fromarray(pixels), threshold)
    assert difference(ra.solarize(picture, threshold), expected) == 0


def test_solarize_add_against_numpy(ra, picture, pixels):
    expected = np.where(pixels < 128, np.minimum(pixels.astype(int) + 110, 255), pixels)
    assert difference(ra.solarize_add(picture, 110), expected) == 0


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancers_against_pillow(ra, picture, pixels, name, factor):
    enhancer = getattr(ImageEnhance, name.capitalize())(Image.fromarray(pixels))
    # Pillow's blend is float32 with fractions dropped, as ours: a last bit may fall either way.
    assert difference(getattr(ra, name)(picture, factor), enhancer.enhance(factor)) <= 1


@pytest.mark.parametrize("pixels_by", [-7, 3, 40])
def test_translations_against_numpy(ra, picture, pixels, pixels_by):
    padded = np.pad(pixels, ((0, 0), (40, 40), (0, 0)), constant_values=128)
    expected = padded[:, 40 + pixels_by : 72 + pixels_by]
    assert difference(ra.translate_x(picture, float(pixels_by)), expected) == 0
    padded = np.pad(pixels, ((40, 40), (0, 0), (0, 0)), constant_values=128)
    expected = padded[40 + pixels_by : 72 + pixels_by]
    assert difference(ra.translate_y(picture, float(pixels_by)), expected) == 0


@pytest.mark.parametrize("quarter_turns", [1, 2, -1])
def test_rotation_by_right_angles(ra, picture, pixels, quarter_turns):
    result = ra.rotate(picture, 90.0 * quarter_turns)
    np.testing.assert_array_equal(result, np.rot90(pixels, quarter_turns))


def test_rotation_against_pillow(ra):
    import tensorflow as tf

    smooth = smooth_image(0, 64, 64)
    expected = Image.fromarray(smooth).rotate(20, fillcolor=(128, 128, 128))
    result = ra.rotate(tf.constant(smooth), 20.0)
    # Both take the nearest pixel; where two are equally near they may differ.
    different = (result.numpy() != np.asarray(expected)).any(axis=-1)
    assert different.mean() < 0.02


def test_shears_against_numpy(ra, picture, pixels):
    # A shear of 1 moves each row by a whole number of pixels.
    expected = np.full_like(pixels, 128)
    for row in range(32):
        expected[row, : 32 - row] = pixels[row, row:]
    np.testing.assert_array_equal(ra.shear_x(picture, 1.0), expected)
    transposed = ra.shear_y(np.swapaxes(pixels, 0, 1), 1.0)
    np.testing.assert_array_equal(np.swapaxes(transposed, 0, 1), expected)


def test_cutout_is_one_grey_square(ra, pixels):
    import tensorflow as tf

    white = tf.fill([32, 32, 3], tf.constant(255, tf.uint8))
    places = set()
    for number in range(30):
        result = ra.cutout(white, 4, np.array([0, number], np.int64)).numpy()
        rows, columns = np.nonzero((result == 128).all(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width <= 64
        assert set(np.unique(result)) == {128, 255}
        places.add((rows[0], columns[0]))
    assert len(places) > 20


def test_signs_are_drawn(ra, picture):
    results = {
        ra.OPERATIONS["rotate"](picture, 9, np.array([0, n], np.int64)).numpy().tobytes()
        for n in range(12)
    }
    assert len(results) == 2


def test_rand_augment(ra, picture, pixels):
    seed = np.array([3, 4], np.int64)
    np.testing.assert_array_equal(ra.rand_augment(picture, seed, layers=0, magnitude=9), pixels)
    first = ra.rand_augment(picture, seed, layers=2, magnitude=9)
    np.testing.assert_array_equal(ra.rand_augment(picture, seed, layers=2, magnitude=9), first)
    assert first.shape == (32, 32, 3)


def test_rand_augment_draws_every_operation(ra, pixels):
    import tensorflow as tf

    seeds = tf.stack([tf.zeros(400, tf.int64), tf.range(400, dtype=tf.int64)], axis=1)
    drawn = tf.map_fn(
        lambda seed: ra.rand_augment(tf.constant(pixels), seed, layers=1, magnitude=9),
        seeds,
        fn_output_signature=tf.uint8,
    ).numpy()
    for name in ("autocontrast", "equalize", "invert", "posterize", "solarize", "color"):
        expected = ra.OPERATIONS[name](tf.constant(pixels), 9, seeds[0]).numpy()
        count = (drawn == expected).all(axis=(1, 2, 3)).sum()
        assert 1 <= count <= 50  # binomial: 25 expected, standard deviation 5
