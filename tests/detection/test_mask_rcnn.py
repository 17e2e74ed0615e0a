"""The whole detector, tiny: a training step, its layout over devices, detections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from evonorm_jax.detection import MaskRCNN, Truth, create_detector, detection_losses
from evonorm_jax.errors import UserError

SIZE, OBJECTS = 64, 3
TINY = {
    "num_classes": 3,
    "backbone_fields": {"stage_sizes": (1, 1), "num_filters": 4},  # levels 2 and 3
    "max_level": 5,
    "anchor_scale": 4.0,
    "roi_canonical_size": 56.0,
    **dict.fromkeys(("fpn_filters", "rpn_filters", "head_filters"), 8),
    "head_num_convs": 1,
    "head_units": 16,
    "rpn_samples": 2048,  # all anchors, so that every level has a gradient
    **dict.fromkeys(("train_candidates", "candidates"), 32),
    **dict.fromkeys(("train_proposals", "proposals"), 24),
    "box_samples": 16,
    "mask_samples": 4,
    "max_detections": 6,
    "score_threshold": 0.0,
}


def tiny(layer, dtype="float32", **fields):
    return create_detector("maskrcnn_r18_fpn", norm_act=layer, dtype=dtype, **(TINY | fields))


@functools.cache
def batch():
    """Two images; the second has one object, the first has two."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    boxes = np.array(
        [[[4, 4, 30, 34], [20, 30, 60, 62], [0] * 4], [[10, 2, 50, 40], [0] * 4, [0] * 4]],
        np.float32,
    )
    classes = np.array([[1, 2, 0], [2, 0, 0]], np.int32)
    masks = rng.integers(0, 2, (2, OBJECTS, 14, 14)).astype(np.uint8)
    return images, Truth(boxes, classes, masks), jax.random.split(jax.random.key(5), 2)


@functools.cache
def variables(layer, **fields):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(tiny(layer, **fields).init, jax.random.key(0), batch()[0])

    def leaf(path, shape):
        noise = rng.standard_normal(shape.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise * np.float32(np.prod(shape.shape[:-1]) ** -0.5)
        if path[-1].key in ("scale", "var", "v"):
            return np.exp(0.2 * noise)
        return 0.1 * noise

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def training_step(detector, axis_name=None):
    """`(params, stats, images, truth, keys) -> (losses, gradient, stats)`, a mean over devices."""

    def step(params, stats, images, truth, keys):
        def loss(params):
            outputs, new = detector.apply(
                {"params": params} | stats,
                images,
                truth,
                keys,
                method=MaskRCNN.training_outputs,
                mutable=["batch_stats"],
            )
            losses = detection_losses(outputs, axis_name)
            return sum(losses.values()), (losses, new)

        gradient, (losses, new) = jax.grad(loss, has_aux=True)(params)
        results = (losses, gradient, new)
        return results if axis_name is None else jax.lax.pmean(results, axis_name)

    return step


@functools.cache
def one_device():
    """A step of two workers, an image each, on one device."""
    detector = tiny("evonorm_b0", norm_act_fields={"virtual_batch_size": 1})
    state = dict(variables("evonorm_b0"))
    step = jax.jit(training_step(detector))
    return step(state.pop("params"), state, *batch())


def assert_trees_close(tree, expected, **tolerance):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), wanted in zip(paths, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, wanted, **tolerance, err_msg=jax.tree_util.keystr(path))


def test_a_step_is_finite_and_reaches_every_parameter():
    losses, gradient, stats = one_device()
    assert sorted(losses) == ["box", "class", "mask", "rpn_box", "rpn_score"]
    for value in losses.values():
        assert 0 < value < 100
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path
    assert jax.tree.structure(stats) == jax.tree.structure(
        {"batch_stats": variables("evonorm_b0")["batch_stats"]}
    )
    for old, new in zip(
        jax.tree.leaves(variables("evonorm_b0")["batch_stats"]), jax.tree.leaves(stats), strict=True
    ):
        assert np.isfinite(new).all()
        assert not np.array_equal(old, new)


@pytest.mark.slow  # the losses alone: tests/training/tasks/test_instance_segmentation.py
def test_two_workers_on_one_device_are_two_devices():
    """Batch statistics in the region heads, the sample, the means of the losses, the gradient."""
    state = dict(variables("evonorm_b0"))
    step = training_step(tiny("evonorm_b0"), axis_name="d")
    spread = jax.pmap(step, axis_name="d", in_axes=(None, None, 0, 0, 0), out_axes=None)
    split = jax.tree.map(lambda leaf: leaf[:, None], batch())
    losses, gradient, stats = spread(state.pop("params"), state, *split)
    expected_losses, expected_gradient, expected_stats = one_device()
    assert_trees_close(losses, expected_losses, rtol=1e-4)
    assert_trees_close(stats, expected_stats, rtol=1e-4, atol=1e-5)
    assert_trees_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


def test_bfloat16_without_objects():
    """No object in the batch: all background, the box and mask losses 0, everything finite."""
    images, truth, keys = batch()
    empty = truth._replace(classes=np.zeros_like(truth.classes))
    fewer = {"max_level": 3}  # half the time to compile
    state = dict(variables("evonorm_s0", **fewer))
    step = jax.jit(training_step(tiny("evonorm_s0", dtype="bfloat16", **fewer)))
    losses, gradient, _ = step(state.pop("params"), state, images, empty, keys)
    assert losses["box"] == losses["mask"] == losses["rpn_box"] == 0
    assert losses["class"] > 0
    assert losses["rpn_score"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.any(gradient["backbone"]["stem_conv"]["kernel"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_dtypes(dtype):
    detector = tiny("evonorm_s0", dtype=dtype)
    images, truth, keys = batch()
    outputs = jax.eval_shape(
        functools.partial(detector.apply, method=MaskRCNN.training_outputs),
        variables("evonorm_s0"),
        images,
        truth,
        keys,
    )
    num_anchors = 3 * sum((SIZE >> level) ** 2 for level in range(2, 6))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), outputs)
    assert shapes.rpn_scores == ((2, num_anchors), "float32")
    assert shapes.rpn_deltas == ((2, num_anchors, 4), "float32")
    assert shapes.class_logits == ((2, 16, 3), "float32")
    assert shapes.box_deltas == ((2, 16, 3, 4), "float32")
    assert shapes.mask_logits == shapes.region_targets.masks == ((2, 4, 28, 28), "float32")
    assert shapes.anchor_targets.sample.candidates == ((2, 2048), "int32")
    assert shapes.region_targets.boxes == ((2, 16, 4), "float32")
    detections = jax.eval_shape(detector.apply, variables("evonorm_s0"), images)
    assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in detections._asdict().items()} == {
        "boxes": ((2, 6, 4), "float32"),
        "scores": ((2, 6), "float32"),
        "classes": ((2, 6), "int32"),
        "masks": ((2, 6, 28, 28), "uint8"),
    }
    maps = jax.eval_shape(
        functools.partial(detector.apply, method=MaskRCNN.feature_maps),
        variables("evonorm_s0"),
        images,
    )
    assert {leaf.dtype for leaf in maps.values()} == {jnp.dtype(dtype)}


@functools.cache
def detector_of(legacy_coordinates):
    return jax.jit(tiny("evonorm_b0", legacy_coordinates=legacy_coordinates).apply)


def three_images():
    """Two of the three are smaller than the canvas."""
    images = np.concatenate([batch()[0], batch()[0][:1, ::-1]])
    return images, np.array([[64, 64], [40, 50], [64, 30]], np.int32)


def test_detections_lie_in_the_picture_and_do_not_depend_on_the_batch():
    images, valid_size = three_images()
    detect = functools.partial(detector_of(False), variables("evonorm_b0"))
    together = detect(images, valid_size)
    order = np.array([2, 0, 1])
    shuffled = detect(images[order], valid_size[order])
    for left, right in zip(together, shuffled, strict=True):
        np.testing.assert_allclose(left[order], right, rtol=1e-4, atol=1e-3)

    boxes, scores, classes, masks = (np.asarray(leaf) for leaf in together)
    assert ((classes >= 1) == (scores >= 0)).all()
    assert (scores >= 0).any(axis=1).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (boxes >= 0).all()
    assert (boxes.reshape(3, 6, 2, 2) <= valid_size[:, None, None]).all()
    assert len(np.unique(masks)) > 2


def test_the_old_rule_of_coordinates_is_one_field():
    ours, old = (
        detector_of(legacy)(variables("evonorm_b0"), *three_images()) for legacy in (False, True)
    )
    assert SIZE - 1 < ours.boxes.max() <= SIZE
    # Clipped to the canvas, whose last pixel is 63.
    assert old.boxes.max() == SIZE - 1
    assert old.boxes[2, :, 3].max() > 30


@pytest.mark.parametrize("shape", ["n, 32 * h, 64, 3", "n, 64, 64 * w, 3"])
def test_height_and_width_are_numbers(shape):
    images = jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float32)
    with pytest.raises(UserError, match=r"height and width must be numbers, .* a program for each"):
        jax.eval_shape(tiny("evonorm_s0").apply, {}, images)


def test_training_mode_needs_mutable_statistics():
    images, truth, keys = batch()
    run = functools.partial(tiny("bn_relu").apply, method=MaskRCNN.training_outputs)
    with pytest.raises(ValueError, match="mutable"):
        jax.eval_shape(run, variables("bn_relu"), images, truth, keys)
    evaluated = functools.partial(run, train=False)
    outputs = jax.eval_shape(evaluated, variables("bn_relu"), images, truth, keys)
    assert outputs.class_logits.shape == (2, 16, 3)
