"""The five losses by hand, where nothing is positive, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.losses import (
    TrainingOutputs,
    detection_losses,
    head_losses,
    huber,
    rpn_losses,
    sigmoid_cross_entropy,
)
from evonorm_jax.detection.matching import Sample
from evonorm_jax.detection.targets import AnchorTargets, RegionTargets

LOSSES = jax.jit(detection_losses)


def outputs(images=1, **changes):
    """Three anchors, of which two are drawn, and two regions of three classes; zero answers."""
    one = {
        "rpn_scores": [0.0, 0, 0],
        "rpn_deltas": np.zeros((3, 4)),
        "candidates": [2, 0, 2],
        "drawn_anchors": [True, True, False],
        "positive": [True, False, False],
        "matched": [True, False, True],
        "anchor_deltas": np.zeros((3, 4)),
        "class_logits": np.zeros((2, 3)),
        "box_deltas": np.zeros((2, 3, 4)),
        "mask_logits": np.zeros((1, 2, 2)),
        "classes": [2, 0],
        "drawn_regions": [True, True],
        "region_deltas": np.zeros((2, 4)),
        "masks": np.zeros((1, 2, 2)),
        **changes,
    }
    dtypes = {"candidates": jnp.int32, "classes": jnp.int32}
    dtypes |= dict.fromkeys(("drawn_anchors", "positive", "matched", "drawn_regions"), bool)
    one = {
        name: jnp.asarray(np.stack([value] * images), dtypes.get(name, jnp.float32))
        for name, value in one.items()
    }
    return TrainingOutputs(
        rpn_scores=one["rpn_scores"],
        rpn_deltas=one["rpn_deltas"],
        anchor_targets=AnchorTargets(
            sample=Sample(one["candidates"], one["positive"], one["drawn_anchors"]),
            matched=one["matched"],
            deltas=one["anchor_deltas"],
        ),
        class_logits=one["class_logits"],
        box_deltas=one["box_deltas"],
        mask_logits=one["mask_logits"],
        region_targets=RegionTargets(
            boxes=jnp.zeros((images, 2, 4)),
            classes=one["classes"],
            drawn=one["drawn_regions"],
            deltas=one["region_deltas"],
            masks=one["masks"],
        ),
    )


@pytest.mark.parametrize("delta", [1 / 9, 1.0])
def test_huber(delta):
    errors = np.array([-3, -delta, -delta / 2, 0, delta / 3, delta, 2])
    expected = [0.5 * e**2 if abs(e) <= delta else delta * abs(e) - 0.5 * delta**2 for e in errors]
    np.testing.assert_allclose(huber(jnp.asarray(errors), delta), expected, rtol=1e-5)
    slopes = jax.vmap(jax.grad(functools.partial(huber, delta=delta)))(jnp.asarray(errors))
    np.testing.assert_allclose(slopes, np.clip(errors, -delta, delta), rtol=1e-5)


def test_sigmoid_cross_entropy():
    logits, targets = np.array([-2.0, 0, 0.5, 3]), np.array([0, 0.3, 1, 0.5])
    p = 1 / (1 + np.exp(-logits))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, targets), expected, rtol=1e-5)
    extreme = sigmoid_cross_entropy(jnp.array([1e4, -1e4]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(extreme, 1e4)
    slopes = jax.vmap(jax.grad(sigmoid_cross_entropy))(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(slopes, p - targets, rtol=1e-5, atol=1e-6)


def test_rpn_score_by_hand():
    # Anchor 2 positive with logit 1, anchor 0 negative with logit -2, the third slot a filler.
    losses = LOSSES(outputs(rpn_scores=[-2.0, 50, 1]))
    expected = (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 3
    np.testing.assert_allclose(losses["rpn_score"], expected, rtol=1e-6)


def test_rpn_box_by_hand():
    # Anchors 0 and 2 are matched, drawn or not; components whose target is 0 are left out.
    deltas = np.array([[0.1, 0, 0, -0.5], [7, 7, 7, 7], [0, 0.05, 0, 0]])
    answers = np.array([[0, 9, 9, 0], [0, 0, 0, 0], [9, 0.05, 9, 9.0]])
    losses = LOSSES(outputs(anchor_deltas=deltas, rpn_deltas=answers))
    expected = (0.5 * 0.1**2 + (0.5 / 9 - 0.5 / 81) + 0) / 3
    np.testing.assert_allclose(losses["rpn_box"], expected, rtol=1e-5)


def test_class_by_hand():
    losses = LOSSES(outputs(class_logits=[[0, 0, np.log(2.0)], [np.log(3.0), 0, 0]]))
    np.testing.assert_allclose(losses["class"], -(np.log(2 / 4) + np.log(3 / 5)) / 2, rtol=1e-5)
    # A filler adds nothing, and the number of slots stays.
    one = LOSSES(outputs(class_logits=np.zeros((2, 3)), drawn_regions=[True, False]))
    np.testing.assert_allclose(one["class"], np.log(3) / 2, rtol=1e-5)


def test_box_by_hand():
    # Region 0 has class 2; the answers for other classes and for the background do not count.
    answers = np.full((2, 3, 4), 9.0)
    answers[0, 2] = [0.5, 0, 0, 3]
    losses = LOSSES(outputs(box_deltas=answers, region_deltas=[[0, 0, 0, 0], [5, 5, 5, 5]]))
    np.testing.assert_allclose(losses["box"], (0.125 + 2.5) / 4, rtol=1e-6)


def test_mask_by_hand():
    logits, masks = [[[2.0, -1], [0, 0]]], [[[1, 0.5], [0, 0]]]
    losses = LOSSES(outputs(mask_logits=logits, masks=masks))
    expected = np.log1p(np.exp(-2)) + (np.log1p(np.exp(-1)) + 0.5) + 2 * np.log(2)
    np.testing.assert_allclose(losses["mask"], expected / 4, rtol=1e-5)


def test_nothing_positive():
    empty = outputs(classes=[0, 0], matched=[False] * 3, positive=[False] * 3)

    def total(outputs):
        losses = detection_losses(outputs)
        return sum(losses.values()), losses

    (_, losses), gradient = jax.jit(jax.value_and_grad(total, has_aux=True, allow_int=True))(empty)
    assert losses["box"] == losses["mask"] == losses["rpn_box"] == 0
    np.testing.assert_allclose(losses["class"], np.log(3), rtol=1e-6)
    for name in ("rpn_deltas", "box_deltas", "mask_logits"):
        assert not np.any(getattr(gradient, name))
    assert np.isfinite(gradient.class_logits).all()
    assert np.any(gradient.class_logits)
    assert np.any(gradient.rpn_scores)


def random_batch():
    """Four images with 1, 0, 2 and 0 objects."""
    rng = np.random.default_rng(0)
    parts = []
    for classes in ([1, 0], [0, 0], [2, 1], [0, 0]):
        parts.append(
            outputs(
                classes=classes,
                matched=np.array([max(classes), 0, min(classes)]) > 0,
                anchor_deltas=rng.standard_normal((3, 4)),
                rpn_deltas=rng.standard_normal((3, 4)),
                box_deltas=rng.standard_normal((2, 3, 4)),
                mask_logits=rng.standard_normal((1, 2, 2)),
                rpn_scores=rng.standard_normal(3),
                class_logits=rng.standard_normal((2, 3)),
            )
        )
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@pytest.mark.parametrize("devices", [2, 4])
def test_mean_over_devices_is_the_loss_of_the_batch(devices):
    batch = random_batch()
    expected = LOSSES(batch)

    def local(batch):
        return jax.lax.pmean(detection_losses(batch, axis_name="d"), "d")

    split = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
    spread = jax.pmap(local, axis_name="d", out_axes=None)(split)
    for name, value in expected.items():
        np.testing.assert_allclose(spread[name], value, rtol=1e-5)
        assert value > 0


def test_names():
    assert sorted(rpn_losses(outputs())) == ["rpn_box", "rpn_score"]
    assert sorted(head_losses(outputs())) == ["box", "class", "mask"]
