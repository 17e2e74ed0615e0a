"""The same pixels as evaluation: by Pillow bit for bit, by TensorFlow to rounding."""

import io

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.data import dataset_config
from evonorm_jax.data.folder import load_class_folder
from evonorm_jax.data.preprocessing import Preprocessing, resize_plainly
from evonorm_jax.errors import UserError
from tests.data.conftest import smooth_image

RGB = {"channels": 3, "mean": (100.0, 110.0, 120.0), "std": (50.0, 60.0, 70.0)}


def folder_config(root, **overrides):
    fields = {"path": str(root), "in_memory": True, "image_size": 8, "resize_size": 10}
    return dataset_config("own", "folder", **fields | overrides)


@pytest.mark.parametrize("method", ["bicubic", "area"])
def test_files_become_what_an_evaluation_in_memory_reads(image_folder, method):
    config = folder_config(image_folder, resize_method=method)
    preprocessing = Preprocessing.of_dataset(config)
    assert preprocessing.antialias
    path = image_folder / "val" / "bee" / "001.jpg"
    (expected,) = load_class_folder(config, evaluation_only=True).eval_images[4:5]
    np.testing.assert_array_equal(preprocessing.read(path), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(preprocessing.read(image), expected)
        np.testing.assert_array_equal(preprocessing.fit(np.asarray(image)[None])[0], expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("method", ["bicubic", "area"])
def test_streamed_sets_are_resized_as_tensorflow_does(method, channels):
    from evonorm_jax.data import tf_images

    sizes = {"image_size": 16, "resize_size": 18}
    values = {"mean": (100.0,) * channels, "std": (50.0,) * channels}
    config = dataset_config(
        "own", "folder", in_memory=False, resize_method=method, **sizes, **values
    )
    preprocessing = Preprocessing.of_dataset(config)
    assert not preprocessing.antialias
    for height, width in ((61, 83), (16, 18), (9, 40), (18, 18), (16, 16)):
        image = Image.fromarray(smooth_image(0, height, width))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        expected = tf_images.decode_eval(
            stream.getvalue(), size=16, resize=18, channels=channels, resize_method=method
        ).numpy()
        found = preprocessing.read(image)
        assert found.shape == (16, 16, channels)
        # A sum in another order may round to the next number.
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found != expected).mean() < 0.005


def test_resizing_by_hand():
    image = np.array([[0.0, 100.0, 200.0, 80.0]] * 4)[..., None]
    np.testing.assert_allclose(resize_plainly(image, 2, "area")[..., 0], [[50, 140]] * 2)
    # Between two pixels Keys' kernel weighs -1/16, 9/16, 9/16, -1/16; beyond the edge nothing.
    left, right = (0 * 9 + 100 * 9 - 200) / 17, (-100 + 200 * 9 + 80 * 9) / 17
    np.testing.assert_allclose(
        resize_plainly(image, 2, "bicubic")[..., 0], [[left, right]] * 2, rtol=1e-6
    )
    np.testing.assert_allclose(resize_plainly(image, 4, "bicubic"), image, rtol=1e-6)


def test_json_gives_it_back():
    preprocessing = Preprocessing(image_size=8, resize_size=10, antialias=False, **RGB)
    record = preprocessing.to_json()
    assert Preprocessing.from_json({**record, "more": 1}, "classes.json") == preprocessing
    del record["std"]
    with pytest.raises(UserError, match=r"classes.json does not say .*'std'.* must have image_siz"):
        Preprocessing.from_json(record, "classes.json")


def test_normalising_by_hand():
    preprocessing = Preprocessing(image_size=1, resize_size=1, **RGB)
    pixels = np.array([150, 110, 50], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(preprocessing.normalize(pixels).ravel(), [1, 0, -1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \[4, 4, 3\]: expected \[N, H, W, 3\]"),
        (np.zeros((1, 4, 4, 1), np.uint8), r"shape \[1, 4, 4, 1\]: expected \[N, H, W, 3\]"),
        (np.zeros((1, 4, 4, 3), int), "dtype int64: expected uint8 or floating point"),
        (np.full((1, 4, 4, 3), 0.7), "values from 0.7 to 0.7: expected pixel values from 0 to 255"),
        (np.full((1, 4, 4, 3), -2.0), "values from -2 to -2"),
        (np.full((1, 4, 4, 3), np.nan), "values from nan to nan"),
    ],
)
def test_arrays_that_are_no_pixels(images, message):
    with pytest.raises(UserError, match=message):
        Preprocessing(image_size=8, resize_size=10, **RGB).fit(images)


def test_arrays_of_the_right_size_stay_as_they_are():
    preprocessing = Preprocessing(image_size=4, resize_size=5, **RGB)
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    assert preprocessing.fit(images) is images


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(UserError, match=rf"{name}' cannot be read as an image \("):
            Preprocessing(image_size=8, resize_size=10, **RGB).read(tmp_path / name)
