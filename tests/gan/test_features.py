"""Features of images, the classifier that comes along, and the report of all figures."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax import create_model
from evonorm_jax.data.arrays import DIGITS_PATH
from evonorm_jax.errors import UserError
from evonorm_jax.gan.classifier_file import DIGITS_CLASSIFIER, read_classifier, write_classifier
from evonorm_jax.gan.features import Features, classifier_features, inception_features
from evonorm_jax.gan.images import from_uint8, to_uint8
from evonorm_jax.gan.inception import InceptionV3
from evonorm_jax.gan.metrics import (
    conditional_accuracy,
    feature_moments,
    frechet_distance,
    precision_recall,
    within_class_variance,
)
from evonorm_jax.gan.report import measure, scalars
from evonorm_jax.interop import load_inception_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = {"name": "cifar_resnet20", "num_classes": 4, "norm_act": "evonorm_s0", "depth": 8}


@pytest.fixture(scope="module")
def classifier():
    model = create_model(**MODEL, num_filters=8)
    variables = model.lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    return classifier_features(model, variables, mean=(100.0,), std=(50.0,), name="small")


@pytest.fixture(scope="module")
def digits():
    """Features of the training digits and of the test digits, from the packaged classifier."""
    with np.load(DIGITS_PATH) as file:
        arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    network = read_classifier()

    def features(split):
        images = arrays[f"x_{split}"].reshape(-1, 8, 8, 1)
        labels = arrays[f"y_{split}"].astype(np.int32)
        return network(images, labels, batch_size=360)

    return features("train"), features("test")


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


# Features.


def test_values_are_what_the_head_takes(classifier):
    images = random_images(7)
    features = classifier(images, np.arange(7), batch_size=3)
    assert features.values.shape == (7, 32)
    assert features.logits.shape == (7, 4)
    head = classifier.variables["params"]["head"]
    np.testing.assert_allclose(
        features.logits, features.values @ head["kernel"] + head["bias"], atol=1e-5
    )
    model = create_model(**MODEL, num_filters=8)
    inputs = (images.astype(np.float32) - 100) / 50
    logits = jax.jit(model.apply)(classifier.variables, inputs)
    np.testing.assert_allclose(features.logits, logits, atol=1e-5)


def test_batches_change_nothing(classifier):
    images = random_images(5)
    whole, parts = classifier(images), classifier(images, batch_size=2)
    np.testing.assert_allclose(whole.values, parts.values, atol=1e-5)
    assert whole.network == parts.network


def test_a_network_is_named_by_its_weights(classifier):
    kind, name, digest = classifier.identity.split()
    assert (kind, name, len(digest)) == ("classifier", "small", 12)
    changed = jax.tree.map(lambda x: x + 1e-3, classifier.variables)
    model = create_model(**MODEL, num_filters=8)
    other = classifier_features(model, changed, mean=(100.0,), std=(50.0,), name="small")
    assert other.identity != classifier.identity


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((2, 8, 8, 1)), r"images are float64\[2, 8, 8, 1\]: expected uint8"),
        (np.ones((0, 8, 8, 1), np.uint8), "N at least 1"),
        (np.ones((8, 8, 1), np.uint8), r"uint8\[8, 8, 1\]"),
    ],
)
def test_images_that_do_not_fit(classifier, images, message):
    with pytest.raises(UserError, match=message):
        classifier(images)
    with pytest.raises(UserError, match="3 labels for 2 images"):
        classifier(random_images(2), np.zeros(3, int))


def test_grey_images_are_shown_to_inception_in_three_channels():
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.ones((1, 75, 75, 3)))
    network = inception_features(variables, "weights")
    shapes = [
        jax.eval_shape(network.function, variables, jnp.ones((2, 32, 32, c), jnp.uint8))
        for c in (1, 3)
    ]
    assert [tuple(leaf.shape for leaf in shape) for shape in shapes] == [((2, 2048), (2, 1008))] * 2


def test_pixels_there_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(from_uint8(jnp.asarray(pixels))), pixels)
    assert to_uint8(jnp.array([-3.0, -1, 1, 9])).tolist() == [0, 0, 255, 255]


# The classifier of the digits.


def test_the_packaged_classifier_knows_the_digits(digits):
    train, test = digits
    assert train.values.shape == (1437, 64)
    accuracy = (test.logits.argmax(1) == test.labels).mean()
    assert accuracy == pytest.approx(0.989, abs=0.003)
    assert DIGITS_CLASSIFIER.stat().st_size < 200_000


def test_a_classifier_in_a_file(classifier, tmp_path):
    path = tmp_path / "classifier.npz"
    model = {**MODEL, "num_filters": 8}
    write_classifier(path, classifier.variables, model=model, mean=(100.0,), std=(50.0,))
    images = random_images(4)
    read, written = read_classifier(path)(images), classifier(images)
    np.testing.assert_allclose(read.values, written.values, atol=2e-2)  # float16 weights
    assert [file.name for file in tmp_path.iterdir()] == ["classifier.npz"]


def test_weights_that_float16_cannot_hold(classifier, tmp_path):
    huge = jax.tree.map(lambda x: x * 1e6, classifier.variables)
    with pytest.raises(UserError, match="has values that float16 cannot hold"):
        write_classifier(tmp_path / "c.npz", huge, model=MODEL, mean=(0.0,), std=(1.0,))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_classifier(tmp_path):
    text, other = tmp_path / "text.npz", tmp_path / "other.npz"
    text.write_text("no")
    np.savez(other, x=np.ones(2))
    for path in (tmp_path / "missing.npz", text, other):
        with pytest.raises(UserError, match=rf"{path.name} is not there or no classifier"):
            read_classifier(path)


@pytest.fixture(scope="module")
def contents():
    with np.load(DIGITS_CLASSIFIER) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("about")))


@pytest.mark.hostile
@pytest.mark.parametrize(
    "change",
    [
        {"model": 3},
        {"model": []},
        {"model": {"name": "x", "num_classes": 10}},
        {"model": {"name": "cifar_resnet20", "num_classes": 10, "depth": "8"}},
        {"mean": "x"},
        {"mean": None},
        {"mean": [float("nan")]},
        {"std": [0]},
        {"std": [1, 2]},
        {"std": {}},
    ],
)
def test_a_damaged_description_of_a_classifier(change, contents, tmp_path):
    arrays, about = contents
    check_no_classifier(tmp_path / "c.npz", {**arrays, "about": json.dumps(about | change)})


@pytest.mark.hostile
def test_damaged_arrays_of_a_classifier(contents, tmp_path):
    arrays, about = contents
    name = next(iter(arrays))
    for key, array in (
        (name, np.array("x")),
        (name, np.full_like(arrays[name], np.nan)),
        (name, arrays[name].astype(complex)),
        (f"{name}/deeper", np.zeros(1)),
    ):
        changed = {**arrays, key: array, "about": json.dumps(about)}
        check_no_classifier(tmp_path / "c.npz", changed)
    no_mean = {field: about[field] for field in about if field != "mean"}
    check_no_classifier(tmp_path / "c.npz", {**arrays, "about": json.dumps(no_mean)})


def check_no_classifier(path, contents):
    np.savez(path, **contents)
    with pytest.raises(UserError, match=r"c\.npz is not there or no classifier"):
        read_classifier(path)


# The report.


@pytest.fixture(scope="module")
def figures_of_real(digits):
    train, test = digits
    return measure(test, train, test)


def test_real_digits_against_real_digits(figures_of_real):
    """Test against training images: the figures that a perfect generator would have here."""
    figures = {figure.name: figure for figure in figures_of_real}
    assert set(figures) == {
        *("classifier_fid", "classifier_kid", "classifier_score", "classifier_precision"),
        *("classifier_recall", "conditional_accuracy", "within_class_variance"),
    }
    assert 0 < figures["classifier_fid"].value < 4
    assert figures["classifier_precision"].value > 0.8
    assert figures["classifier_recall"].value > 0.8
    assert figures["classifier_score"].value > 8  # in ten parts of 36
    assert figures["conditional_accuracy"].value > 0.98
    assert figures["within_class_variance"].value == pytest.approx(1, abs=0.3)
    assert all(figure.real == figure.value for figure in figures.values())


def test_noise_and_one_picture_a_class(digits):
    train, test = digits
    noise = read_classifier()(random_images(360), batch_size=360)
    distance = frechet_distance(feature_moments(noise.values), feature_moments(train.values))
    assert distance > 30
    # One picture of each class is right by its label; variance and recall tell.
    first = [np.flatnonzero(test.labels == label)[0] for label in test.labels]
    collapsed = Features(test.network, *(x[first] for x in test[1:]))
    assert conditional_accuracy(collapsed.logits, collapsed.labels) > 0.9
    of_classes = (collapsed.labels, train.values, train.labels)
    assert within_class_variance(collapsed.values, *of_classes) == 0
    assert precision_recall(collapsed.values, train.values).recall < 0.1


def test_a_figure_stands_beside_its_numbers(figures_of_real):
    with_real = figures_of_real[0]
    without = dataclasses.replace(with_real, real=None, num_real=0)
    assert str(with_real).startswith(f"classifier_fid {with_real.value:.4g} (360 samples against ")
    assert "against 1,437 of train; 360 real images: " in str(with_real)
    assert "no held-out real images to compare with" in str(without)
    logged = scalars(figures_of_real)
    assert logged["classifier_fid_real"] == logged["classifier_fid"]
    assert (logged["num_samples"], logged["num_reference"], logged["num_real"]) == (360, 1437, 360)
    assert "classifier_kid_std" in logged
    assert not any(name in logged for name in ("fid", "kid", "inception_score"))


def test_figures_of_inception_have_names_of_their_own():
    rng = np.random.default_rng(0)
    features = Features(
        "inception weights 0123", rng.normal(size=(40, 8)), rng.normal(size=(40, 5))
    )
    names = [figure.name for figure in measure(features, features, reference_name="val")]
    assert names == ["fid", "kid", "inception_score", "precision", "recall"]
    assert "of val" in str(measure(features, features, reference_name="val")[0])


def test_what_does_not_compare(digits):
    train, test = digits
    with pytest.raises(UserError, match="features are from different networks"):
        measure(test._replace(network="classifier other 00"), train)
    few = Features(test.network, *(x[:64] for x in test[1:]))
    with pytest.raises(UserError, match="64 samples have 64 features each"):
        measure(few, train)


def test_weights_are_read_from_safetensors_alone(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    pytest.importorskip("safetensors")
    with pytest.raises(UserError, match="is a pickle"):
        load_inception_weights(path)


class _Headless(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3, name="output")(x.reshape(len(x), -1))


def test_a_network_without_a_head():
    model = _Headless()
    variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    network = classifier_features(model, variables, mean=(0.0,), std=(1.0,), name="headless")
    with pytest.raises(UserError, match="_Headless has no layer called head"):
        network(random_images(2))
