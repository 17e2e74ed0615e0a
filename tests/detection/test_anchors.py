"""Anchors by hand, and where they stand."""

import numpy as np

from evonorm_jax.detection.anchors import anchors


def test_one_pixel_by_hand():
    # The only pixel of level 5 has its centre at (16, 16); the area is 128^2.
    boxes = anchors((32, 32), [5], scale=4)[5]
    root = np.sqrt(2)
    sides = [(128, 128), (128 / root, 128 * root), (128 * root, 128 / root)]
    expected = [[16 - h / 2, 16 - w / 2, 16 + h / 2, 16 + w / 2] for h, w in sides]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)


def test_sizes_of_the_levels():
    made = anchors((128, 256), range(2, 7), scale=8)
    assert {level: len(boxes) for level, boxes in made.items()} == {
        level: 3 * (128 // 2**level) * (256 // 2**level) for level in range(2, 7)
    }
    for level, boxes in made.items():
        height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        np.testing.assert_allclose(np.sqrt(height * width), 8 * 2**level, rtol=1e-5)
        np.testing.assert_allclose(width[:3] / height[:3], [1, 2, 0.5], rtol=1e-5)
        assert boxes.dtype == np.float32


def test_pixels_row_by_row_and_symmetric():
    boxes = anchors((16, 32), [3], scale=1)[3].reshape(2, 4, 3, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    np.testing.assert_allclose(centres[1, 2, 0], [12, 20])
    mirrored = np.array([16, 32]) - centres[::-1, ::-1]
    np.testing.assert_allclose(centres, mirrored, atol=1e-5)  # no half pixel to one side
