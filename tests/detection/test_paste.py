"""Masks back in the image: by hand, and round trips with the targets."""

import jax
import numpy as np
import pytest

from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.detection.targets import crop_mask


def disc(size, centre, radii):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], np.float32)


def iou(a, b):
    return np.sum(a & b) / np.sum(a | b)


@pytest.mark.parametrize("box", [[3, 4, 13, 20], [0.4, 0.6, 9.4, 5.5], [2.4, 2.4, 3.4, 3.4]])
def test_a_full_mask_covers_the_pixels_whose_centres_lie_in_its_box(box):
    pasted = paste_mask(np.full((28, 28), 255, np.uint8), np.array(box), (24, 32))
    rows, columns = np.mgrid[:24, :32] + 0.5
    inside = (box[0] < rows) & (rows < box[2]) & (box[1] < columns) & (columns < box[3])
    np.testing.assert_array_equal(pasted, inside)


def test_enlarged_by_hand():
    # Cells of 2 pixels: a pixel centre lies a quarter of a cell from the centre of its own.
    mask = np.array([[1.0, 0.0], [0.0, 0.0]])
    pasted = paste_mask(mask, np.array([0, 0, 4, 4]), (4, 4))
    # 0.75 * 0.75 = 0.5625 at all four pixels of the cell, at most 0.75 * 0.25 beside it.
    assert pasted.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_uint8_is_255_times_the_probability():
    mask = np.random.default_rng(0).uniform(size=(28, 28))
    box = np.array([2.3, 4.1, 30.0, 60.7])
    from_uint8 = paste_mask(np.round(255 * mask).astype(np.uint8), box, (40, 64))
    assert iou(from_uint8, paste_mask(mask, box, (40, 64))) > 0.98


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 9, 5, 5], [-9, -9, -1, -1], [99, 99, 120, 120]])
def test_boxes_without_a_pixel(box):
    assert not paste_mask(np.full((28, 28), 255, np.uint8), np.array(box, float), (16, 16)).any()


def test_partly_outside():
    pasted = paste_mask(np.ones((4, 4)), np.array([-4.0, 12, 4, 20]), (16, 16))
    assert box_of(pasted).tolist() == [0, 12, 4, 16]


@pytest.mark.parametrize("shift", [(0, 0), (-3, 2)])
@pytest.mark.parametrize("radii", [(10.5, 11), (30, 14), (45, 50)])
def test_crop_and_paste_give_the_object_back(radii, shift):
    size = (128, 160)
    mask = disc(size, (60.2, 77.7), radii)
    box = box_of(mask)
    rows, columns = (slice(int(box[i]), int(box[i + 2])) for i in (0, 1))
    inside = jax.image.resize(mask[rows, columns].astype(np.float32), (112, 112), "linear")
    region = box + np.array([*shift, *shift], np.float32)
    target = crop_mask(np.asarray(inside) > 0.5, box, region, size=28)
    again = paste_mask(np.asarray(target), region, size)
    seen = np.zeros(size, bool)
    rows, columns = (slice(int(region[i]), int(region[i + 2])) for i in (0, 1))
    seen[rows, columns] = mask[rows, columns]
    assert iou(again, seen) > 0.95
