import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.training.mixing import cutmix, mix, mixup

PARTNER = np.array([1, 0, 3, 2])
# Compiled once for all tests: the Beta distribution takes a second to compile.
MIXUP, CUTMIX = (jax.jit(function, static_argnames="alpha") for function in (mixup, cutmix))


def flat_images(count, height=12, width=8):
    """Image i has the value i in every pixel, and class i."""
    values = jnp.arange(count, dtype=jnp.float32)
    return jnp.broadcast_to(values[:, None, None, None], (count, height, width, 1)), jnp.eye(count)


def test_mixup_blends_neighbours_with_weights_of_their_own():
    images, targets = flat_images(4)
    mixed, mixed_targets = MIXUP(jax.random.key(0), images, targets, jnp.arange(4), alpha=1.0)
    weights = np.diag(mixed_targets)
    assert np.all((weights > 0) & (weights < 1))
    assert len(set(weights.tolist())) == 4
    values = weights * np.arange(4) + (1 - weights) * PARTNER
    np.testing.assert_allclose(
        mixed, np.broadcast_to(values[:, None, None, None], mixed.shape), rtol=1e-6
    )
    np.testing.assert_allclose(mixed_targets.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        mixed_targets[np.arange(4), PARTNER], 1 - weights, rtol=1e-5, atol=1e-7
    )


def test_cutmix_pastes_one_box_of_the_neighbour_and_mixes_targets_by_its_area():
    images, targets = flat_images(4)
    shares = []
    for seed in range(6):
        mixed, mixed_targets = map(
            np.asarray, CUTMIX(jax.random.key(seed), images, targets, jnp.arange(4), alpha=1.0)
        )
        for i in range(4):
            pasted = mixed[i, ..., 0] != i
            assert set(mixed[i][pasted].ravel()) <= {PARTNER[i]}
            rows, columns = pasted.any(1), pasted.any(0)
            np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
            for line in (rows, columns):  # in one piece
                assert np.abs(np.diff(line.astype(int))).sum() <= 2
            # By hand: the label of the neighbour weighs as much as its pixels do.
            expected = np.zeros(4)
            expected[i], expected[PARTNER[i]] = 1 - pasted.sum() / 96, pasted.sum() / 96
            np.testing.assert_allclose(mixed_targets[i], expected, atol=1e-7)
            shares.append(pasted.mean())
    assert len(set(shares)) > 10  # every example has a box of its own
    assert min(shares) < 0.1
    assert max(shares) > 0.4


def test_cutmix_of_a_centred_box_by_hand(monkeypatch):
    # Beta says 3/4, so the sides are halves: 6 of 12 rows and 4 of 8 columns, around pixel 1 each:
    # rows -2 ... 3, of which 4 are in the image, and columns -1 ... 2, of which 3 are.
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jnp.float32(0.75))
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.int32(1))
    images, targets = flat_images(2)
    mixed, mixed_targets = cutmix(jax.random.key(0), images, targets, jnp.arange(2), 1.0)
    expected = np.zeros((12, 8))
    expected[:4, :3] = 1
    np.testing.assert_array_equal(mixed[0, ..., 0], expected)
    np.testing.assert_allclose(mixed_targets, [[7 / 8, 1 / 8], [1 / 8, 7 / 8]])


@pytest.mark.parametrize("function", [MIXUP, CUTMIX])
def test_how_an_example_is_mixed_depends_on_its_place_in_the_global_batch_alone(function):
    images, targets = flat_images(4)
    order = jnp.array([2, 3, 0, 1])  # another device order
    results = [
        function(jax.random.key(1), images[o], targets[o], o, alpha=1.0)
        for o in (jnp.arange(4), order)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a[order], b)


def test_both_together_give_each_example_one_of_the_two():
    images, targets = flat_images(64)
    both = jax.jit(functools.partial(mix, mixup_alpha=1.0, cutmix_alpha=1.0))
    mixed, mixed_targets = both(jax.random.key(0), images, targets, jnp.arange(64))
    blended = np.array([len(np.unique(image)) == 1 and image.max() % 1 > 0 for image in mixed])
    assert 16 <= blended.sum() <= 48  # 32 expected, standard deviation 4
    np.testing.assert_allclose(mixed_targets.sum(-1), 1, rtol=1e-6)
    # Either way the target is the mean value of the image.
    np.testing.assert_allclose(mixed_targets @ np.arange(64), mixed.mean((1, 2, 3)), rtol=1e-5)


def test_nothing_is_mixed_where_both_are_off():
    images, targets = flat_images(2)
    mixed = mix(
        jax.random.key(0), images, targets, jnp.arange(2), mixup_alpha=0.0, cutmix_alpha=0.0
    )
    assert mixed[0] is images
    assert mixed[1] is targets
