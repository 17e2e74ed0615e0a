import hashlib

import numpy as np
import pytest

from evonorm_jax.data import Hosts, create_pipeline, dataset_config, steps_per_epoch
from evonorm_jax.data.arrays import DIGITS_PATH
from evonorm_jax.errors import UserError


def digits():
    return create_pipeline(dataset_config("digits", "embedded"), seed=0)


def test_digits_are_the_published_ones():
    # Digests of the arrays made from scikit-learn's load_digits as the module docstring says.
    expected = {
        "x_train": "5931360c6b724ef606efa374957dbb5198ee8d89a41b128829a916e1687a4b0d",
        "y_train": "4f4ce7a3af5de083f212be06233e775f31e01595e61f1230a37ba792fa7a6735",
        "x_test": "da1232558bbfb01e3104fdd48c365b695058c5dae145cc967e77b6d67074e141",
        "y_test": "c9af20a38f6b10d13edeb9340252ef1785164255e393877a0e36b059777c21fa",
    }
    with np.load(DIGITS_PATH) as file:
        assert {
            name: hashlib.sha256(file[name].tobytes()).hexdigest() for name in expected
        } == expected
    assert DIGITS_PATH.stat().st_size < 50_000


def test_digits_split_and_values():
    pipeline = digits()
    arrays = pipeline.resident()
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (1437, 360)
    assert (pipeline.num_classes, pipeline.image_shape) == (10, (8, 8, 1))
    assert pipeline.class_names == tuple("0123456789")
    per_class = np.bincount(arrays["train_labels"])
    assert per_class.tolist() == [142, 146, 141, 147, 144, 146, 145, 143, 139, 144]
    assert np.bincount(arrays["eval_labels"]).tolist() == [36] * 4 + [37] + [36] * 3 + [35, 36]
    # Value k of 0 ... 16 is stored as round(k * 255 / 16); this is a 7, in the original values:
    original = np.round(arrays["train_images"][0, :, :, 0] / 255 * 16).astype(int)
    assert arrays["train_labels"][0] == 7
    assert original[:4].tolist() == [
        [0, 0, 12, 16, 16, 12, 0, 0],
        [0, 0, 6, 4, 10, 13, 1, 0],
        [0, 0, 0, 0, 13, 9, 0, 0],
        [0, 0, 5, 9, 16, 16, 12, 0],
    ]


def test_digits_statistics_are_those_of_the_config():
    config = dataset_config("digits", "embedded")
    images = digits().resident()["train_images"]
    assert images.mean() == pytest.approx(config.mean[0], abs=0.01)
    assert images.std() == pytest.approx(config.std[0], abs=0.01)


def write_npz(path, **changes):
    """A valid file of six training and four test images, with some arrays replaced or dropped."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 4, 4, 3), np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": rng.integers(0, 256, (4, 4, 4, 3), np.uint8),
        "y_test": np.arange(4) % 3,
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def npz_pipeline(path, **overrides):
    config = dataset_config("own", "npz", path=str(path), image_size=4, resize_size=0, **overrides)
    return create_pipeline(config, seed=0)


def test_npz(tmp_path):
    arrays = write_npz(tmp_path / "a.npz", class_names=np.array(["x", "y", "z"]))
    pipeline = npz_pipeline(tmp_path / "a.npz")
    np.testing.assert_array_equal(pipeline.resident()["train_images"], arrays["x_train"])
    np.testing.assert_array_equal(pipeline.resident()["eval_labels"], arrays["y_test"])
    assert pipeline.resident()["eval_labels"].dtype == np.int32
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("x", "y", "z"))
    assert pipeline.image_shape == (4, 4, 3)


def test_npz_as_keras_has_cifar_and_mnist(tmp_path):
    write_npz(tmp_path / "cifar.npz", y_train=np.zeros((6, 1), np.uint8))
    assert npz_pipeline(tmp_path / "cifar.npz", num_classes=3).num_classes == 3
    grey = np.zeros((6, 4, 4), np.uint8)
    write_npz(tmp_path / "mnist.npz", x_train=grey, x_test=grey[:4])
    pipeline = npz_pipeline(tmp_path / "mnist.npz", mean=(0.0,), std=(255.0,))
    assert pipeline.image_shape == (4, 4, 1)


def test_npz_part_of_a_split(tmp_path):
    arrays = write_npz(tmp_path / "a.npz")
    pipeline = npz_pipeline(
        tmp_path / "a.npz", train_split="train[:4]", eval_split="train[4:]", num_classes=3
    )
    np.testing.assert_array_equal(pipeline.resident()["train_images"], arrays["x_train"][:4])
    np.testing.assert_array_equal(pipeline.resident()["eval_images"], arrays["x_train"][4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "no array x_test for split 'test'"),
        ({"x_train": np.zeros((6, 4, 4, 3))}, "'x_train' .* is float64"),
        ({"x_train": np.zeros((6, 48), np.uint8)}, r"'x_train' .* \[6, 48\]"),
        ({"x_train": np.zeros((0, 4, 4, 3), np.uint8), "y_train": np.zeros(0, int)}, "no images"),
        ({"x_train": np.zeros((6, 4, 4, 2), np.uint8)}, "have 2 channels"),
        ({"x_train": np.zeros((6, 4, 4), np.uint8)}, "have 1 channels"),
        ({"x_train": np.zeros((6, 5, 4, 3), np.uint8)}, "are 5x4 pixels"),
        ({"y_train": np.zeros(5, int)}, r"labels must be integers \[6\]"),
        ({"y_train": np.zeros(6)}, "'y_train' .* float64"),
        ({"y_train": np.full(6, -1)}, "run from -1"),
        ({"y_test": np.full(4, 3)}, "split 'test' .* run from 3 to 3"),
        ({"class_names": np.array(["x", "y"])}, "with 2 classes"),
        ({"y_train": np.array([None] * 6)}, "'y_train': it holds Python objects, which are never"),
        ({"y_train": (np.arange(6) % 3) + 2**32}, "label in .* is 4294967298, .* of 10 examples"),
        ({"y_train": np.arange(6, dtype=np.uint64) + 2**63}, "label in .* is 9223372036854775813"),
        (
            {"y_train": np.array([0, 1, 2, 0, 1, 2**30])},
            "which makes 1073741825 classes of 10",
        ),
        ({"y_test": np.arange(4) % 3 + 2**32}, "run from 4294967296 to 4294967298, but with 3"),
        ({"y_train": np.arange(6) % 2 == 0}, "'y_train' .* bool .* labels must be integers"),
        ({"y_train": np.array(3)}, r"'y_train' .* int64 \[\]: labels must be integers"),
        ({"y_train": np.zeros((6, 2), int)}, r"'y_train' .* \[6, 2\]: labels must be integers"),
        ({"class_names": np.arange(3)}, r"'class_names' .* int64 \[3\]: class names must be text"),
        ({"class_names": np.array("x")}, r"'class_names' .* <U1 \[\]: class names must be text"),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=message):
        npz_pipeline(tmp_path / "a.npz")


def test_files_that_are_no_npz(tmp_path):
    for name in ("missing.npz", "x" * 300, "a\0b"):
        with pytest.raises(UserError, match="There is no file"):
            npz_pipeline(tmp_path / name)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(UserError, match="cannot be read"):
        npz_pipeline(tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        npz_pipeline(tmp_path / "empty.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match="cannot be read"):
        npz_pipeline(tmp_path / "single.npy")


def test_fake_arrays():
    sizes = {"num_train_examples": 20, "num_eval_examples": 7, "num_classes": 3}
    config = dataset_config("cifar10", "fake", **sizes)
    pipeline, again = (create_pipeline(config, seed=5) for _ in range(2))
    assert pipeline.resident()["train_images"].shape == (20, 32, 32, 3)
    assert np.bincount(pipeline.resident()["eval_labels"]).tolist() == [3, 2, 2]
    for name, leaf in pipeline.resident().items():
        np.testing.assert_array_equal(leaf, again.resident()[name])
    with pytest.raises(UserError, match=r"Fake data needs sizes.*\(20, 0, 3\)"):
        create_pipeline(dataset_config("x", "fake", **sizes | {"num_eval_examples": 0}), seed=0)


FAKE_SIZES = {"num_train_examples": 20, "num_eval_examples": 7, "num_classes": 3}


@pytest.mark.parametrize(
    "config",
    [dataset_config("digits", "embedded"), dataset_config("cifar10", "fake", **FAKE_SIZES)],
    ids=lambda config: config.source,
)
def test_evaluation_only(config):
    pipeline = create_pipeline(config, seed=0, evaluation_only=True)
    whole = create_pipeline(config, seed=0)
    assert pipeline.num_train_examples == 0
    assert (pipeline.num_classes, pipeline.num_eval_examples, pipeline.image_shape) == (
        whole.num_classes,
        whole.num_eval_examples,
        whole.image_shape,
    )
    assert set(pipeline.resident()) == {"eval_images", "eval_labels"}
    for name, leaf in pipeline.resident().items():
        np.testing.assert_array_equal(leaf, whole.resident()[name])
    batches, expected = (
        list(each.eval_batches(batch_size=100, hosts=Hosts())) for each in (pipeline, whole)
    )
    np.testing.assert_array_equal(batches[-1]["index"], expected[-1]["index"])
    for ask in (
        lambda: next(pipeline.train_batches(start_step=0, batch_size=4, hosts=Hosts())),
        lambda: steps_per_epoch(pipeline, 4),
    ):
        with pytest.raises(UserError, match="created for evaluation only"):
            ask()


def test_fake_data_for_evaluation_needs_no_training_size():
    config = dataset_config("x", "fake", **FAKE_SIZES | {"num_train_examples": 0}, in_memory=True)
    assert create_pipeline(config, seed=0, evaluation_only=True).num_eval_examples == 7
    config.num_eval_examples = 0
    with pytest.raises(UserError, match=r"Fake data needs sizes.*\(0, 0, 3\)"):
        create_pipeline(config, seed=0, evaluation_only=True)


def test_npz_evaluation_only(tmp_path):
    def pipeline_of(name, **overrides):
        config = dataset_config(
            "own", "npz", path=str(tmp_path / name), image_size=4, resize_size=0, **overrides
        )
        return create_pipeline(config, seed=0, evaluation_only=True)

    arrays = write_npz(tmp_path / "a.npz", x_train=None, y_train=None)
    pipeline = pipeline_of("a.npz")
    assert (pipeline.num_train_examples, pipeline.num_classes) == (0, 3)
    assert set(pipeline.resident()) == {"eval_images", "eval_labels"}
    np.testing.assert_array_equal(pipeline.resident()["eval_images"], arrays["x_test"])
    assert pipeline_of("a.npz", num_classes=5).num_classes == 5
    # Four classes in training, three of them in evaluation; the images are not looked at.
    write_npz(tmp_path / "b.npz", x_train=np.zeros(2), y_train=np.array([[0], [3]]))
    assert pipeline_of("b.npz").num_classes == 4
    with pytest.raises(UserError, match=r"split 'test' .* run from 0 to 2"):
        pipeline_of("a.npz", num_classes=2)


def test_a_wild_label_is_no_class_unless_the_config_says_so(tmp_path):
    write_npz(tmp_path / "a.npz", y_train=np.array([0, 1, 2, 0, 1, 900]))
    with pytest.raises(UserError, match=r"set config\.dataset\.num_classes if so many"):
        npz_pipeline(tmp_path / "a.npz")
    assert npz_pipeline(tmp_path / "a.npz", num_classes=1000).num_classes == 1000


def test_a_set_that_no_device_holds():
    config = dataset_config("imagenet2012", "fake", in_memory=True)
    config.update(num_train_examples=10**9, num_eval_examples=1, num_classes=2)
    with pytest.raises(UserError, match="in_memory=False to stream"):
        create_pipeline(config, seed=0)
