"""Proposals by hand: levels apart, the best of all, padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.detection.proposals import best, propose

ANCHORS = {
    2: jnp.array([[0.0, 0, 8, 8], [0, 1, 8, 9], [20, 20, 28, 28], [40, 40, 48, 48]]),
    3: jnp.array([[0.0, 0, 8, 8], [0, 0, 60, 60]]),
}
SCORES = {2: jnp.array([2.0, 3.0, -1.0, 0.5]), 3: jnp.array([2.5, -3.0])}
NO_DELTAS = {level: jnp.zeros_like(boxes) for level, boxes in ANCHORS.items()}


def run(scores=SCORES, deltas=NO_DELTAS, size=(64, 64), **fields):
    fields = {
        "num_candidates": 4,
        "num_proposals": 5,
        "iou_threshold": 0.7,
        "extent": 0.0,
        **fields,
    }
    boxes, valid = jax.jit(functools.partial(propose, **fields))(
        scores, deltas, ANCHORS, jnp.array(size)
    )
    return np.asarray(boxes), np.asarray(valid)


def test_suppression_stays_within_a_level():
    boxes, valid = run()
    # The first anchor of level 2 overlaps the second by 7/9; level 3 has the same box and keeps it.
    expected = [[0, 1, 8, 9], [0, 0, 8, 8], [40, 40, 48, 48], [20, 20, 28, 28], [0, 0, 60, 60]]
    np.testing.assert_allclose(boxes, expected)
    assert valid.all()


def test_how_many_enter_and_leave():
    boxes, valid = run(num_candidates=2)
    np.testing.assert_allclose(boxes[:3], [[0, 1, 8, 9], [0, 0, 8, 8], [0, 0, 60, 60]])
    assert valid.tolist() == [True] * 3 + [False] * 2
    assert not boxes[3:].any()
    boxes, valid = run(num_proposals=2)
    np.testing.assert_allclose(boxes, [[0, 1, 8, 9], [0, 0, 8, 8]])


def test_boxes_are_clipped_and_empty_ones_left_out():
    boxes, valid = run(size=(30, 40))
    expected = [[0, 1, 8, 9], [0, 0, 8, 8], [20, 20, 28, 28], [0, 0, 30, 40]]
    np.testing.assert_allclose(boxes[:4], expected)
    assert valid.tolist() == [True] * 4 + [False]


def test_deltas_move_the_boxes_and_have_no_gradient():
    deltas = {**NO_DELTAS, 3: jnp.array([[0.5, 0.0, 0, 0], [0, 0, 0, 0]])}
    boxes, _ = run(deltas=deltas)
    np.testing.assert_allclose(boxes[1], [4, 0, 12, 8])

    def loss(scores, deltas):
        boxes, _ = propose(
            scores,
            deltas,
            ANCHORS,
            jnp.array([64, 64]),
            num_candidates=4,
            num_proposals=5,
            iou_threshold=0.7,
            extent=0.0,
        )
        return jnp.sum(boxes**2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(SCORES, deltas)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_equal_scores_keep_the_order_of_the_anchors():
    equal = {level: jnp.zeros_like(scores) for level, scores in SCORES.items()}
    boxes, _ = run(scores=equal)
    np.testing.assert_allclose(boxes[0], ANCHORS[2][0])
    np.testing.assert_allclose(boxes[1:3], ANCHORS[2][2:])


def test_a_network_that_has_diverged_proposes_nothing():
    nan = {level: scores * np.nan for level, scores in SCORES.items()}
    boxes, valid = run(scores=nan)
    assert not valid.any()
    assert not boxes.any()


def test_best():
    index, found = best(jnp.array([1.0, 5, 3, 4]), jnp.array([True, False, True, True]), 2)
    assert index.tolist() == [3, 2]
    assert found.all()
