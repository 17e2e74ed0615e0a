"""Post-processing by hand and against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax.detection.boxes import UNIT_WEIGHTS
from evonorm_jax.detection.detections import select_detections
from tests.detection import oracle


def run(probabilities, regions, valid=None, deltas=None, size=(64, 64), **fields):
    probabilities, regions = np.asarray(probabilities), np.asarray(regions, np.float32)
    fields = {
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "max_detections": 4,
        "weights": UNIT_WEIGHTS,
        "extent": 0.0,
        **fields,
    }
    valid = np.ones(len(regions), bool) if valid is None else np.array(valid)
    if deltas is None:
        deltas = np.zeros((*probabilities.shape, 4), np.float32)
    select = jax.jit(functools.partial(select_detections, **fields))
    logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
    return [np.asarray(x) for x in select(logits, deltas, regions, valid, jnp.array(size))]


def test_by_hand():
    regions = [[0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40], [0, 0, 0, 0]]
    probabilities = [[0.1, 0.7, 0.2], [0.35, 0.6, 0.05], [0.1, 0.3, 0.6], [0.01, 0.01, 0.98]]
    boxes, scores, classes = run(probabilities, regions, valid=[True, True, True, False])
    # Class 1: the second region goes; class 2 is suppressed apart and its 0.05 is not enough.
    np.testing.assert_allclose(scores, [0.7, 0.6, 0.3, 0.2], rtol=1e-5)
    assert classes.tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(boxes, np.array(regions)[[0, 2, 2, 0]])


def test_slots_without_a_detection():
    boxes, scores, classes = run([[0.98, 0.02], [0.4, 0.6]], [[0, 0, 9, 9], [20, 20, 30, 30]])
    np.testing.assert_allclose(scores, [0.6, -1, -1, -1], rtol=1e-5)
    assert classes.tolist() == [1, 0, 0, 0]
    assert not boxes[1:].any()


def test_deltas_of_the_class_are_taken_and_clipped():
    deltas = np.zeros((1, 3, 4), np.float32)
    deltas[0, 1], deltas[0, 2] = [0.5, 0, 0, 0], [5, 5, 0, 0]
    boxes, _, classes = run([[0.2, 0.5, 0.3]], [[40, 40, 60, 60]], deltas=deltas)
    assert classes.tolist()[:2] == [1, 0]  # class 2 has left the picture
    np.testing.assert_allclose(boxes[0], [50, 40, 64, 60])


def test_the_loop():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (40, 2))
    regions = np.concatenate([corner, corner + rng.uniform(5, 30, (40, 2))], axis=1)
    probabilities = rng.dirichlet(np.ones(4), 40)
    boxes, scores, classes = run(probabilities, regions, max_detections=12)
    expected = []
    for category in (1, 2, 3):
        order = np.argsort(-probabilities[:, category])
        kept = oracle.greedy_suppression(
            regions[order], probabilities[order, category] > 0.05, threshold=0.5
        )
        expected += [(probabilities[order[k], category], category, order[k]) for k in kept]
    expected = sorted(expected, reverse=True)[:12]
    np.testing.assert_allclose(scores, [score for score, _, _ in expected], rtol=1e-4)
    assert classes.tolist() == [category for _, category, _ in expected]
    np.testing.assert_allclose(boxes, regions[[index for _, _, index in expected]], rtol=1e-5)
