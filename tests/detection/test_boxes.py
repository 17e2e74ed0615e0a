"""Boxes by hand, round trips, and padding that stays finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection import boxes as box_math
from tests.detection import oracle

PADDING = [0.0, 0.0, 0.0, 0.0]


def random_boxes(rng, number, size=100.0):
    corner = rng.uniform(0, 0.7 * size, (number, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 0.3 * size, (number, 2))], axis=1)


def test_iou_by_hand():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 4], PADDING])
    others = jnp.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], PADDING])
    expected = [[1, 1 / 7, 0, 0], [1 / 2, 2 / 10, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(box_math.iou(boxes, others), expected, rtol=1e-6)


def test_iou_is_that_of_the_oracle():
    rng = np.random.default_rng(0)
    boxes, others = random_boxes(rng, 20), random_boxes(rng, 30)
    expected = [[oracle.iou(a, b) for b in others] for a in boxes]
    result = jax.jit(box_math.iou)(jnp.asarray(boxes), jnp.asarray(others))
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.max(expected) > 0.3


def test_encode_by_hand():
    anchor = jnp.array([10.0, 20, 30, 60])  # 20 x 40 around (20, 40)
    box = jnp.array([15.0, 10, 55, 90])  # 40 x 80 around (35, 50)
    deltas = box_math.encode(box, anchor, weights=(10.0, 10.0, 5.0, 5.0))
    np.testing.assert_allclose(
        deltas, [10 * 15 / 20, 10 * 10 / 40, 5 * np.log(2), 5 * np.log(2)], rtol=1e-6
    )


@pytest.mark.parametrize("extent", [0.0, 1.0])
@pytest.mark.parametrize("weights", [box_math.UNIT_WEIGHTS, (10.0, 10.0, 5.0, 5.0)])
def test_decode_is_the_inverse_of_encode(weights, extent):
    rng = np.random.default_rng(1)
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    deltas = box_math.encode(jnp.asarray(boxes), jnp.asarray(anchors), weights, extent)
    decoded = box_math.decode(deltas, jnp.asarray(anchors), weights, extent)
    np.testing.assert_allclose(decoded, boxes, atol=1e-4)


def test_the_old_rule_counts_both_end_pixels():
    # Pixels 10 to 19 are ten pixels then, and deltas of 0 give the anchor back.
    anchor = jnp.array([10.0, 10, 19, 19])
    assert box_math.sizes(anchor, extent=1.0)[0] == 10
    np.testing.assert_array_equal(box_math.decode(jnp.zeros(4), anchor, extent=1.0), anchor)
    clipped = box_math.clip(jnp.array([-5.0, 0, 200, 300]), jnp.array([100, 150]), extent=1.0)
    np.testing.assert_array_equal(clipped, [0, 0, 99, 149])


def test_huge_deltas_stay_finite():
    decoded = box_math.decode(jnp.full(4, 1e4), jnp.array([0.0, 0, 16, 16]))
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded[2] - decoded[0], 16 * 62.5, rtol=1e-4)


def test_clip_to_the_picture():
    boxes = jnp.array([[-5.0, 3, 20, 200], [90, 90, 120, 120]])
    clipped = box_math.clip(boxes, jnp.array([64, 96]))
    np.testing.assert_array_equal(clipped, [[0, 3, 20, 96], [64, 90, 64, 96]])
    assert box_math.area(clipped)[1] == 0


def test_padding_has_finite_values_and_gradients():
    boxes = jnp.array([PADDING, [1.0, 2, 3, 4]])

    def total(boxes, anchors):
        deltas = box_math.encode(boxes, anchors)
        back = box_math.decode(deltas, anchors)
        return jnp.sum(deltas) + jnp.sum(back) + jnp.sum(box_math.iou(boxes, anchors))

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(boxes, boxes[::-1])
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
