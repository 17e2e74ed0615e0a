"""Decoding in TensorFlow against Pillow and numpy."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.data import pillow_images
from tests.data.conftest import smooth_image
from tests.data.test_hostile_images import BOMBS

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def tf_images():
    from evonorm_jax.data import tf_images

    return tf_images


def encode(image, form="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photo(height=40, width=60, seed=0):
    return Image.fromarray(smooth_image(seed, height, width))


def decode_train(tf_images, contents, seed=(0, 0), **changes):
    options = {
        "size": 16,
        "channels": 3,
        "min_crop_area": 0.08,
        "flip": True,
        "randaugment_layers": 0,
        "randaugment_magnitude": 0,
        "autoaugment": False,
    }
    return tf_images.decode_train(contents, np.array(seed, np.int64), **options | changes).numpy()


COLORS = {
    "rgb jpeg": (Image.new("RGB", (9, 9), (200, 40, 90)), "JPEG", (200, 40, 90)),
    "grey jpeg": (Image.new("L", (9, 9), 77), "JPEG", (77, 77, 77)),
    "cmyk jpeg": (Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
    "rgba png": (Image.new("RGBA", (9, 9), (9, 8, 7, 128)), "PNG", (9, 8, 7)),
    "grey png": (Image.new("L", (9, 9), 77), "PNG", (77, 77, 77)),
    "16-bit png": (Image.new("I;16", (9, 9), 0x8040), "PNG", (128, 128, 128)),
    "gif": (Image.new("L", (9, 9), 77), "GIF", (77, 77, 77)),
    "bmp": (Image.new("RGB", (9, 9), (1, 2, 3)), "BMP", (1, 2, 3)),
    "1-bit bmp": (Image.new("1", (9, 9), 1), "BMP", (255, 255, 255)),
    "palette bmp": (Image.new("RGB", (9, 9), (204, 51, 102)).convert("P"), "BMP", (204, 51, 102)),
    "webp": (Image.new("RGB", (9, 9), (60, 60, 60)), "WEBP", (60, 60, 60)),
    "rgba webp": (Image.new("RGBA", (9, 9), (60, 60, 60, 99)), "WEBP", (60, 60, 60)),
    "one pixel": (Image.new("RGB", (1, 1), (200, 40, 90)), "JPEG", (200, 40, 90)),
    "one row": (Image.new("RGB", (50, 1), (200, 40, 90)), "JPEG", (200, 40, 90)),
    "one column": (Image.new("RGB", (1, 50), (200, 40, 90)), "PNG", (200, 40, 90)),
}


@pytest.mark.parametrize("kind", COLORS)
def test_every_kind_of_image_becomes_rgb(tf_images, kind):
    image, form, expected = COLORS[kind]
    contents = encode(image, form)
    evaluated = tf_images.decode_eval(contents, size=8, resize=10, channels=3).numpy()
    trained = decode_train(tf_images, contents, size=8)
    for pixels in (evaluated, trained):
        assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
        assert np.abs(pixels.astype(int) - expected).max() <= 3  # the loss of JPEG


@pytest.mark.parametrize("kind", COLORS)
def test_every_kind_of_image_becomes_grey(tf_images, kind):
    image, form, expected = COLORS[kind]
    contents = encode(image, form)
    evaluated = tf_images.decode_eval(contents, size=8, resize=10, channels=1).numpy()
    trained = decode_train(tf_images, contents, size=8, channels=1)
    luma = np.dot(expected, (0.299, 0.587, 0.114))  # ITU-R BT.601, as Pillow and JPEG have it
    for pixels in (evaluated, trained):
        assert (pixels.shape, pixels.dtype) == ((8, 8, 1), np.uint8)
        assert np.abs(pixels.astype(int) - luma).max() <= 3  # the loss of JPEG


def test_grey_values_are_kept(tf_images):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    contents = encode(Image.fromarray(values), "PNG")
    pixels = tf_images.decode_eval(contents, size=16, resize=16, channels=1).numpy()
    np.testing.assert_array_equal(pixels[..., 0], values)


def test_grey_output(tf_images):
    contents = encode(photo())
    pixels = tf_images.decode_eval(contents, size=40, resize=40, channels=1).numpy()[..., 0]
    expected = np.asarray(photo().convert("L"))[:, 10:50]
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_an_image_of_the_right_size_is_not_touched(tf_images):
    contents = encode(photo(32, 32), "PNG")
    pixels = tf_images.decode_eval(contents, size=32, resize=32, channels=3).numpy()
    np.testing.assert_array_equal(pixels, np.asarray(photo(32, 32)))


def test_training_on_the_centre_by_area_is_the_mean_of_pixels(tf_images):
    """As image synthesis reads ImageNet: the whole shorter side, each pixel a mean of 2x2."""
    image = photo(32, 48)
    options = {"crop": "center", "resize_method": "area", "flip": False}
    trained = decode_train(tf_images, encode(image, "PNG"), **options)
    blocks = np.asarray(image, np.float64)[:, 8:40].reshape(16, 2, 16, 2, 3)
    np.testing.assert_allclose(trained, blocks.mean((1, 3)), atol=0.501)
    evaluated = tf_images.decode_eval(
        encode(image, "PNG"), size=16, resize=16, channels=3, resize_method="area"
    )
    np.testing.assert_array_equal(evaluated, trained)


def test_centre_crop_against_pillow(tf_images):
    pixels = tf_images.decode_eval(encode(photo(60, 90), "PNG"), size=40, resize=60, channels=3)
    np.testing.assert_array_equal(pixels, np.asarray(photo(60, 90))[10:50, 25:65])
    # Enlarging, where antialiasing makes no difference: the same bicubic kernel up to rounding.
    pixels = tf_images.decode_eval(encode(photo(30, 50), "PNG"), size=64, resize=64, channels=3)
    crop = photo(30, 50).crop((10, 0, 40, 30)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(pixels.numpy().astype(int) - np.asarray(crop)).max() <= 1


def test_jpeg_window_is_the_window_of_the_whole_image(tf_images):
    contents = encode(photo(48, 64))
    whole = np.asarray(Image.open(io.BytesIO(contents)))
    pixels = tf_images.decode_eval(contents, size=16, resize=48, channels=3).numpy()
    # The decoders round differently, most at the border; one pixel beside would be 10 away.
    distance = np.abs(pixels.astype(int) - whole[16:32, 24:40])
    assert distance.mean() < 1.5
    assert distance.max() < 10


@pytest.fixture(scope="module")
def boxes(tf_images):
    """2000 random windows of a 200 x 300 image as (top, left, height, width)."""
    import tensorflow as tf

    def draw(number):
        window = functools.partial(tf_images.random_window, tf.constant([200, 300]), min_area=0.08)
        return tf.concat(window(seed=tf.stack([tf.constant(5, tf.int64), number])), axis=0)

    numbers = tf.data.Dataset.range(2000).map(draw).batch(2000)
    return next(numbers.as_numpy_iterator())


def test_random_windows_keep_to_area_ratio_and_image(boxes):
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    ratio, area = width / height, width * height / (200 * 300)
    assert ratio.min() > 3 / 4 * 0.97  # whole pixels
    assert ratio.max() < 4 / 3 * 1.03
    assert 0.078 < area.min() < 0.1
    assert 0.7 < area.max() <= 1


def test_random_windows_use_the_whole_image(boxes):
    top, left, height, width = boxes.T
    assert (top == 0).any()
    assert (left == 0).any()
    # TensorFlow's op leaves out the last offset, so a smaller window ends one pixel before.
    assert (top + height >= 199).any()
    assert (left + width >= 299).any()
    assert len(set(map(tuple, boxes))) > 1900


def test_a_very_long_image_gives_its_centre(tf_images):
    begin, extent = tf_images.random_window(np.array([30, 3000], np.int32), np.array([0, 1]), 0.9)
    assert extent.numpy().tolist() == [30, 40]
    assert begin.numpy().tolist() == [0, 1480]


@pytest.mark.parametrize(
    "options", [{"randaugment_layers": 2, "randaugment_magnitude": 9}, {"autoaugment": True}]
)
def test_training_is_a_function_of_the_seed(tf_images, options):
    contents = encode(photo())
    first = decode_train(tf_images, contents, (1, 2), **options)
    np.testing.assert_array_equal(decode_train(tf_images, contents, (1, 2), **options), first)
    assert (decode_train(tf_images, contents, (1, 3), **options) != first).any()
    assert (decode_train(tf_images, contents, (2, 2), **options) != first).any()


def test_flip_mirrors_half_of_the_images(tf_images):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    contents = encode(Image.fromarray(pixels), "PNG")
    whole = {"min_crop_area": 1.0}  # the whole image, so that only the flip is random
    draws = [decode_train(tf_images, contents, (0, n), **whole) for n in range(60)]
    mirrored = [(draw == pixels[:, ::-1]).all() for draw in draws]
    kept = [(draw == pixels).all() for draw in draws]
    assert all(np.logical_xor(mirrored, kept))
    assert 12 <= sum(mirrored) <= 48  # five standard deviations
    plain = [decode_train(tf_images, contents, (0, n), flip=False, **whole) for n in range(8)]
    assert all((draw == pixels).all() for draw in plain)


def tagged(image, orientation, form="PNG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, form, exif=exif, **options)


@pytest.fixture(scope="module")
def compiled(tf_images):
    """The decoders as a data set runs them, in graphs."""
    import tensorflow as tf

    evaluate = functools.partial(tf_images.decode_eval, size=12, resize=16, channels=3)
    train = functools.partial(
        tf_images.decode_train,
        size=12,
        channels=3,
        min_crop_area=0.2,
        flip=False,
        randaugment_layers=0,
        randaugment_magnitude=0,
        autoaugment=False,
    )
    seed = np.array((1, 2), np.int64)
    functions = {
        "eval": lambda contents: evaluate(contents),
        "random": lambda contents: train(contents, seed),
        "center": lambda contents: train(contents, seed, crop="center"),
        "as stored": lambda contents: train(contents, seed, upright=False),
    }
    signature = [tf.TensorSpec([], tf.string)]
    return {
        name: tf.function(function, input_signature=signature)
        for name, function in functions.items()
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_photographs_are_turned_upright(compiled, orientation, form):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(form, {})
    photograph = photo(23, 36, seed=orientation)
    contents = tagged(photograph, orientation, form, **options)
    if form == "JPEG":  # which Pillow decodes a little differently
        import tensorflow as tf

        photograph = Image.fromarray(tf.io.decode_jpeg(contents).numpy())
    stored = tagged(photograph, orientation, "PNG")
    upright = pillow_images.decode_image(io.BytesIO(stored), 3)
    assert upright.size == ((36, 23) if orientation < 5 else (23, 36))
    upright = encode(upright, "PNG")
    for name in ("eval", "random", "center"):
        decode = compiled[name]
        np.testing.assert_array_equal(decode(contents), decode(upright), err_msg=name)
    decode = compiled["as stored"]
    np.testing.assert_array_equal(decode(contents), decode(encode(photograph, "PNG")))


def test_exif_behind_a_long_profile_is_found(tf_images):
    contents = tagged(photo(), 6, "JPEG", icc_profile=bytes(70_000))
    start = contents.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(contents[start + 2 : start + 4], "big")
    profile = contents.rindex(b"ICC_PROFILE")
    profile_end = profile - 2 + int.from_bytes(contents[profile - 2 : profile], "big")
    moved = contents[:start] + contents[end:profile_end] + contents[start:end]
    moved += contents[profile_end:]
    assert moved.index(b"Exif") > 64_000
    decode = functools.partial(tf_images.decode_eval, size=40, resize=40, channels=3)
    np.testing.assert_array_equal(decode(moved), decode(contents))
    assert (decode(moved).numpy() != decode(moved, upright=False).numpy()).any()


@pytest.mark.hostile
@pytest.mark.parametrize("kind", BOMBS)
def test_decompression_bombs_are_refused(compiled, kind):
    import tensorflow as tf

    for decode in compiled.values():
        with pytest.raises(tf.errors.OpError):
            decode(BOMBS[kind])


@pytest.mark.hostile
def test_the_reason_is_named(tf_images):
    import tensorflow as tf

    decode = functools.partial(tf_images.decode_eval, size=8, resize=8, channels=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^more than the 178,956,970 pixels"):
        decode(BOMBS["jpeg"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="none of BMP, GIF"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    for length in (1, 3, 4, 8, 20, 24):
        with pytest.raises(tf.errors.OpError):
            decode(BOMBS["png"][:length])
