"""Figures of samples against the data set of a config."""

import numpy as np
import pytest

from configs import synthesis_recipes
from evonorm_jax.data import create_pipeline
from evonorm_jax.gan.report import scalars
from evonorm_jax.training.sample_figures import SampleFigures, real_images


def test_real_images_are_those_of_the_data_set_in_order():
    config = synthesis_recipes.biggan_deep_digits("evonorm_s0")
    pipeline = create_pipeline(config.dataset, seed=0)
    for split, count in (("train", 1437), ("test", 360)):
        images, labels = real_images(config, split)
        kind = "eval" if split == "test" else split
        np.testing.assert_array_equal(images, pipeline.resident()[f"{kind}_images"])
        np.testing.assert_array_equal(labels, pipeline.resident()[f"{kind}_labels"])
        assert (len(images), images.dtype) == (count, np.uint8)


def test_figures_of_the_data_itself():
    """The training images are their own reference; the test images are what real ones reach."""
    config = synthesis_recipes.biggan_deep_digits("evonorm_s0")
    figures = SampleFigures(config, create_pipeline(config.dataset, seed=0))
    measured = figures.measure(*real_images(config, "train"))
    values = scalars(measured)
    assert values["classifier_fid"] == pytest.approx(0, abs=1e-6)
    assert values["within_class_variance"] == pytest.approx(1)
    assert values["classifier_precision"] == values["classifier_recall"] == 1
    assert 0.05 < values["classifier_fid_real"] < 0.5
    assert (values["num_samples"], values["num_reference"], values["num_real"]) == (1437, 1437, 360)
    assert {figure.reference for figure in measured} == {"train"}
    assert figures.main_name == "classifier_fid"

    config.figures.reference = "eval"
    figures = SampleFigures(config, create_pipeline(config.dataset, seed=0))
    (first, *_) = figures.measure(*real_images(config, "test"))
    assert (first.reference, first.num_reference, first.real) == ("test", 360, None)
