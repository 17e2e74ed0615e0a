"""One image with its objects on the canvas."""

import numpy as np
import pytest

from evonorm_jax.data.instances.config import instance_dataset_config
from evonorm_jax.data.instances.examples import (
    Instance,
    crop_to_box,
    fit_image,
    make_example,
    report_surplus,
)
from evonorm_jax.data.instances.masks import bounding_box, instances_of


def config(**fields):
    fields = {"image_size": 32, "mask_size": 8, "max_instances": 2} | fields
    return instance_dataset_config("own", "coco_json", path="somewhere", **fields)


def test_an_image_of_the_size_of_the_canvas_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 20, 3)).astype(np.uint8)
    example = fit_image(pixels, 32)
    np.testing.assert_array_equal(example["image"][:, :20], pixels)
    assert not example["image"][:, 20:].any()
    assert (example["valid_size"].tolist(), float(example["scale"])) == ([32, 20], 1.0)


@pytest.mark.parametrize("shape", [(64, 48), (16, 12), (61, 47), (7, 32)])
def test_a_ramp_keeps_its_coordinates(shape):
    """The value of a pixel is its coordinate, before and after, and one scale holds for both."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    pixels = np.stack([2 * rows, 2 * columns, 0 * rows], axis=-1).astype(np.uint8)
    example = fit_image(pixels, 32)
    height, width = example["valid_size"]
    scale = float(example["scale"])
    assert max(height, width) == 32
    assert 0 <= min(shape) * scale - min(height, width) < 1
    inside = slice(2, -2)
    found_rows, found_columns = np.mgrid[:height, :width] + 0.5
    image = example["image"][:height, :width].astype(float)
    for found, channel in ((found_rows, 0), (found_columns, 1)):
        np.testing.assert_allclose(
            image[inside, inside, channel], 2 * found[inside, inside] / scale, atol=1.6
        )


def test_objects_are_scaled_with_the_image_and_the_largest_are_kept():
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 0:4, 0:4] = masks[1, 8:40, 16:32] = masks[2, 40:60, 40:50] = True
    instances = instances_of([(1, masks[0]), (2, masks[1]), (3, masks[2])])
    example = make_example(np.zeros((64, 64, 3), np.uint8), instances, config())
    assert example["classes"].tolist() == [2, 3]
    assert example["boxes"].tolist() == [[4, 8, 20, 16], [20, 20, 30, 25]]
    assert np.unpackbits(example["masks"], axis=-1).all()
    assert example["masks"].shape == (2, 8, 1)


def test_an_image_without_objects():
    example = make_example(np.zeros((8, 8, 3), np.uint8), [], config())
    assert not example["classes"].any()
    assert not example["boxes"].any()


def test_a_mask_is_cropped_to_its_box():
    mask = np.zeros((20, 30), bool)
    mask[4:8, 10:18] = True
    assert crop_to_box(mask, (4, 10, 8, 18), 8).all()
    right_half = crop_to_box(mask, (4, 2, 8, 18), 8)
    assert right_half[:, 4:].all()
    assert not right_half[:, :4].any()


def test_boxes_are_those_of_the_pixels():
    mask = np.zeros((6, 9), bool)
    mask[2, 3] = mask[4, 8] = True
    assert bounding_box(mask) == (2, 3, 5, 9)
    (instance,) = instances_of([(1, mask)])
    assert instance == Instance((2, 3, 5, 9), 1, 2.0, instance.mask)
    assert instance.mask() is mask


def test_surplus_objects_are_counted_and_said(caplog):
    report_surplus([3, 2, 7], 2, "own")
    assert "2 images have more than 2 objects; their smallest 6 are not" in caplog.text
    assert "max_instances=7 takes all" in caplog.text
    caplog.clear()
    report_surplus([3, 2], 3, "own")
    assert not caplog.text
