"""Who matches whom, and who is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.matching import Matches, match_anchors, match_regions, sample

# IoU with the object [0, 0, 10, 10]: 1, 0.8, 0.5, 0.25, 0.
CANDIDATES = np.array(
    [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 5, 5], [50, 50, 60, 60]], np.float32
)
OBJECT, PADDING = [0.0, 0, 10, 10], [0.0, 0, 0, 0]


def match(function, candidates, boxes, classes, *valid):
    args = (jnp.asarray(candidates), *valid, jnp.array(boxes), jnp.array(classes))
    return jax.tree.map(np.asarray, jax.jit(function)(*args))


def test_anchors_by_hand():
    matches = match(match_anchors, CANDIDATES, [PADDING, OBJECT], [0, 3])
    assert matches.positive.tolist() == [True, True, False, False, False]
    assert matches.negative.tolist() == [False, False, False, True, True]
    assert matches.objects[:2].tolist() == [1, 1]


def test_every_object_claims_its_best_anchor_however_bad():
    far = [49.0, 49, 52, 52]  # IoU 4 / 105 with the last candidate
    matches = match(match_anchors, CANDIDATES[1:], [far, OBJECT, PADDING], [1, 2, 0])
    assert matches.positive.tolist() == [True, False, False, True]
    assert matches.negative.tolist() == [False, False, True, False]
    assert matches.objects[[0, 3]].tolist() == [1, 0]


def test_one_anchor_wanted_by_two_objects_goes_to_the_first():
    weaker = [0.0, 0, 10, 6]
    for boxes in ([OBJECT, weaker], [weaker, OBJECT]):
        matches = match(match_anchors, CANDIDATES[[0, 4]], boxes, [1, 1])
        assert matches.positive.tolist() == [True, False]
        assert matches.objects[0] == 0


def test_ties_go_to_the_first_anchor_alone():
    low = np.array([[0, 0, 4, 10], [6, 0, 10, 10]], np.float32)  # IoU 0.4 both
    matches = match(match_anchors, low, [OBJECT], [1])
    assert matches.positive.tolist() == [True, False]


def test_padding_and_objects_beside_all_anchors_claim_nothing():
    matches = match(match_anchors, CANDIDATES, [PADDING, [80.0, 80, 90, 90]], [0, 1])
    assert not matches.positive.any()
    assert matches.negative.all()
    # Padding is known by its class, whatever its box.
    matches = match(match_anchors, CANDIDATES, [OBJECT], [0])
    assert not matches.positive.any()


def test_regions_by_hand():
    valid = jnp.array([True, True, True, True, False])
    matches = match(match_regions, CANDIDATES, [PADDING, OBJECT], [0, 3], valid)
    assert matches.positive.tolist() == [True, True, False, False, False]
    assert matches.negative.tolist() == [False, False, False, True, False]  # 0.5 is neither
    assert matches.objects[:2].tolist() == [1, 1]


def flags(positive, negative):
    positive, negative = np.array(positive, bool), np.array(negative, bool)
    return Matches(jnp.zeros(len(positive), jnp.int32), jnp.array(positive), jnp.array(negative))


draw = jax.jit(sample, static_argnames=("num_samples", "max_positives"))


@pytest.mark.parametrize(
    ("num_positives", "num_negatives", "drawn_positives", "drawn"),
    [(20, 50, 4, 8), (2, 50, 2, 8), (0, 50, 0, 8), (20, 0, 4, 4), (1, 2, 1, 3), (0, 0, 0, 0)],
)
def test_quota(num_positives, num_negatives, drawn_positives, drawn):
    kinds = np.random.default_rng(0).permutation(
        [1] * num_positives + [-1] * num_negatives + [0] * (80 - num_positives - num_negatives)
    )
    result = draw(jax.random.key(3), flags(kinds > 0, kinds < 0), num_samples=8, max_positives=4)
    candidates, positive, real = (np.asarray(leaf) for leaf in result)
    assert candidates.shape == positive.shape == real.shape == (8,)
    assert positive.tolist() == [True] * drawn_positives + [False] * (8 - drawn_positives)
    assert real.tolist() == [True] * drawn + [False] * (8 - drawn)
    assert len(set(candidates[real])) == drawn  # without replacement
    assert (kinds[candidates[positive]] > 0).all()
    assert (kinds[candidates[real & ~positive]] < 0).all()
    if drawn:  # the rest repeats what was drawn, in turn
        np.testing.assert_array_equal(candidates, candidates[np.arange(8) % drawn])


def test_more_slots_than_candidates():
    result = draw(jax.random.key(0), flags([1, 0, 0], [0, 1, 1]), num_samples=6, max_positives=5)
    assert sorted(np.asarray(result.candidates)[np.asarray(result.drawn)].tolist()) == [0, 1, 2]


def test_all_candidates_are_equally_likely():
    matches = flags([1] * 10 + [0] * 30, [0] * 10 + [1] * 30)
    draw_many = jax.jit(
        jax.vmap(functools.partial(sample, matches=matches, num_samples=8, max_positives=4))
    )
    candidates = draw_many(jax.random.split(jax.random.key(0), 2000)).candidates
    counts = np.bincount(np.asarray(candidates).ravel(), minlength=40)
    # 800 and 267 on average; five standard deviations of the binomial are 110 and 76.
    assert np.abs(counts[:10] - 800).max() < 110
    assert np.abs(counts[10:] - 2000 * 4 / 30).max() < 76


def test_the_sample_depends_on_the_key_of_its_image_alone():
    matches = flags([1] * 10 + [0] * 30, [0] * 10 + [1] * 30)
    keys = jax.random.split(jax.random.key(0), 4)
    one = functools.partial(draw, matches=matches, num_samples=8, max_positives=4)
    together = jax.jit(jax.vmap(one))(keys).candidates
    alone = np.stack([one(key).candidates for key in keys[::-1]])[::-1]
    np.testing.assert_array_equal(together, alone)
    assert not np.array_equal(together[0], together[1])
