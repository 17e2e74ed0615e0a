"""Targets of the two stages, and the masks cropped to regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.boxes import UNIT_WEIGHTS
from evonorm_jax.detection.matching import Truth
from evonorm_jax.detection.targets import anchor_targets, crop_mask, region_targets

CROP = jax.jit(crop_mask, static_argnames="size")


def truth_of_one(classes=(2, 0)):
    rng = np.random.default_rng(0)
    return Truth(
        boxes=jnp.array([[10.0, 20, 50, 60], [0, 0, 0, 0]]),
        classes=jnp.array(classes),
        masks=jnp.asarray(rng.integers(0, 2, (2, 8, 8)), jnp.uint8),
    )


def test_the_mask_of_its_own_box_is_the_mask():
    mask = np.random.default_rng(0).integers(0, 2, (28, 28)).astype(np.uint8)
    box = jnp.array([3.0, 5, 40, 90])
    np.testing.assert_allclose(CROP(mask, box, box, size=28), mask, atol=1e-5)
    smaller = CROP(mask, box, box, size=14)  # pixels of 2 x 2 average to their centre's value
    expected = mask.reshape(14, 2, 14, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(smaller, expected, atol=1e-5)


def test_a_quarter_of_the_box_by_hand():
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :2] = 1
    box = jnp.array([0.0, 0, 8, 8])
    quarter = CROP(mask, box, jnp.array([0.0, 0, 4, 4]), size=2)
    np.testing.assert_allclose(quarter, np.ones((2, 2)), atol=1e-6)
    # From 2 to 6 the two cells have their centres on the mask's second and third.
    middle = CROP(mask, box, jnp.array([2.0, 2, 6, 6]), size=2)
    np.testing.assert_allclose(middle, [[1, 0], [0, 0]], atol=1e-6)
    # Between the centres of two cells: the outline is soft.
    between = CROP(mask, box, jnp.array([0.0, 3, 2, 5]), size=1)
    np.testing.assert_allclose(between, [[0.5]], atol=1e-6)


def test_outside_of_the_box_is_zero():
    mask = np.ones((4, 4), np.uint8)
    crop = CROP(mask, jnp.array([10.0, 10, 20, 20]), jnp.array([0.0, 10, 20, 20]), size=4)
    np.testing.assert_allclose(crop, [[0] * 4, [0] * 4, [1] * 4, [1] * 4], atol=1e-6)


def test_a_centred_square_stays_centred():
    mask = np.zeros((56, 56), np.uint8)
    mask[14:42, 14:42] = 1
    box = jnp.array([0.0, 0, 100, 100])
    crop = np.asarray(CROP(mask, box, jnp.array([10.0, 10, 90, 90]), size=28))
    np.testing.assert_allclose(crop, crop[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(crop, crop.T, atol=1e-5)


@pytest.mark.parametrize("box", [[0.0, 0, 0, 0], [5, 5, 5, 9]])
def test_empty_boxes_are_finite(box):
    mask, region = np.ones((4, 4), np.uint8), jnp.array([0.0, 0, 3, 3])
    assert np.isfinite(CROP(mask, jnp.array(box), region, size=4)).all()
    assert np.isfinite(CROP(mask, region, jnp.array(box), size=4)).all()


def test_anchor_targets():
    anchors = jnp.array([[10.0, 20, 50, 60], [10, 20, 50, 100], [100, 100, 120, 120]])
    draw = functools.partial(anchor_targets, num_samples=4, max_positives=2)
    targets = jax.jit(draw)(jax.random.key(0), anchors, truth_of_one())
    assert targets.matched.tolist() == [True, False, False]
    np.testing.assert_allclose(targets.deltas[0], 0, atol=1e-6)
    # The second is neither, IoU 0.5: half as wide an object, its centre a quarter to the left.
    np.testing.assert_allclose(targets.deltas[1], [0, -1 / 4, 0, -np.log(2)], atol=1e-6)
    assert np.isfinite(targets.deltas).all()
    assert targets.sample.candidates.tolist()[:2] == [0, 2]
    assert targets.sample.drawn.tolist() == [True, True, False, False]

    empty = jax.jit(draw)(jax.random.key(0), anchors, truth_of_one(classes=(0, 0)))
    assert not empty.matched.any()
    assert not empty.sample.positive.any()
    assert empty.sample.drawn.sum() == 3


def draw_regions(truth, proposals, valid, num_samples=6):
    draw = functools.partial(
        region_targets,
        num_samples=num_samples,
        max_positives=2,
        mask_size=4,
        weights=UNIT_WEIGHTS,
        extent=0.0,
    )
    return jax.jit(draw)(jax.random.key(0), jnp.array(proposals), jnp.array(valid), truth)


def test_objects_are_regions_too():
    truth = truth_of_one()
    proposals = [[0.0, 0, 8, 8], [12, 20, 50, 60], [0, 0, 0, 0]]
    targets = draw_regions(truth, proposals, [True, True, False])
    assert targets.classes.tolist() == [2, 2, 0, 0, 0, 0]
    assert targets.drawn.tolist() == [True] * 3 + [False] * 3
    first_two = {tuple(box) for box in targets.boxes[:2].tolist()}
    assert first_two == {tuple(truth.boxes[0].tolist()), (12, 20, 50, 60)}
    # Fillers are real regions: the box that was drawn as background, or the objects again.
    assert (np.asarray(targets.boxes[2:]).max(axis=1) > 0).all()
    own = int(np.argmin(np.abs(targets.boxes[:2, 0] - 10)))
    np.testing.assert_allclose(targets.deltas[own], 0, atol=1e-6)
    np.testing.assert_allclose(
        targets.masks[own], CROP(truth.masks[0], truth.boxes[0], truth.boxes[0], size=4), atol=1e-6
    )
    assert targets.masks.shape == (2, 4, 4)


def test_an_image_without_objects_is_all_background():
    proposals = np.arange(8.0)[:, None] + np.array([0.0, 0, 20, 20])
    targets = draw_regions(truth_of_one(classes=(0, 0)), proposals, [True] * 8)
    assert targets.classes.tolist() == [0] * 6
    assert targets.drawn.all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(targets))
