"""The heads: order of anchors, layers of their own, the class of a mask, batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection.heads import BoxHead, MaskHead, RegionProposalHead, per_region
from evonorm_jax.norm_act import norm_act
from tests.models.plain_networks import plain_conv, plain_evonorm_s0

BOX = {"num_classes": 3, "num_convs": 1, "num_filters": 8, "num_units": 8}
MASK = {"num_classes": 3, "num_convs": 1, "num_filters": 8}


def draw(module, *args):
    """Every value random, the running variances positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)

    def leaf(path, shape):
        noise = rng.standard_normal(shape.shape).astype(np.float32)
        return np.exp(noise) if path[-1].key == "var" else noise / 2

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def test_per_region():
    layer = norm_act("evonorm_b0", virtual_batch_size=2)
    assert per_region(layer, 8)().virtual_batch_size == 16
    assert per_region(norm_act("evonorm_b0"), 8)().virtual_batch_size is None
    assert per_region(norm_act("evonorm_s0"), 8).func is norm_act("evonorm_s0").func
    bound = functools.partial(layer, use_running_average=True)
    assert per_region(bound, 8)().use_running_average is True


def test_proposals_shared_convolution_layers_of_their_own():
    maps = {
        level: np.random.default_rng(level).standard_normal((2, size, size, 4)).astype(np.float32)
        for level, size in ((2, 4), (3, 2))
    }
    module = RegionProposalHead(norm_act("evonorm_s0"), num_anchors=3, num_convs=1, num_filters=4)
    variables = draw(module, maps)
    assert set(variables["params"]) == {
        *("conv1", "level2_norm1", "level3_norm1", "scores", "deltas"),
    }
    scores, deltas = jax.jit(module.apply)(variables, maps)
    params = jax.tree.map(np.float64, variables["params"])
    for level, x in maps.items():
        x = plain_conv(x.astype(np.float64), params["conv1"]) + params["conv1"]["bias"]
        x = plain_evonorm_s0(x, params[f"level{level}_norm1"])
        expected = plain_conv(x, params["scores"]) + params["scores"]["bias"]
        np.testing.assert_allclose(scores[level], expected.reshape(2, -1), rtol=1e-4, atol=1e-4)
        # Pixel by pixel, at each the anchors in turn, of each the four deltas.
        expected = plain_conv(x, params["deltas"]) + params["deltas"]["bias"]
        height, width = expected.shape[1:3]
        np.testing.assert_allclose(
            deltas[level].reshape(2, height, width, 3, 4)[:, 1, 0, 2],
            expected[:, 1, 0, 8:12],
            rtol=1e-4,
            atol=1e-4,
        )


def test_box_head_by_plain_numpy():
    regions = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 5)).astype(np.float32)
    module = BoxHead(norm_act("evonorm_s0"), **BOX)
    variables = draw(module, regions)
    logits, deltas = jax.jit(module.apply)(variables, regions)
    p = jax.tree.map(np.float64, variables["params"])
    x = plain_conv(regions.reshape(6, 4, 4, 5).astype(np.float64), p["conv1"]) + p["conv1"]["bias"]
    x = plain_evonorm_s0(x, p["norm1"]).reshape(6, -1)
    x = x @ p["dense"]["kernel"] + p["dense"]["bias"]
    x = plain_evonorm_s0(x[:, None, None], p["dense_norm"])[:, 0, 0]
    expected = x @ p["classes"]["kernel"] + p["classes"]["bias"]
    np.testing.assert_allclose(logits, expected.reshape(2, 3, 3), rtol=1e-4, atol=1e-4)
    expected = x @ p["deltas"]["kernel"] + p["deltas"]["bias"]
    np.testing.assert_allclose(deltas, expected.reshape(2, 3, 3, 4), rtol=1e-4, atol=1e-4)


def test_the_mask_of_the_class_is_taken():
    regions = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 5)).astype(np.float32)
    module = MaskHead(norm_act("evonorm_s0"), **MASK)
    classes = jnp.array([[0, 1, 2], [2, 2, 1]])
    variables = draw(module, regions, classes)
    apply = jax.jit(module.apply)
    chosen = apply(variables, regions, classes)
    assert chosen.shape == (2, 3, 4, 4)
    each = [apply(variables, regions, jnp.full((2, 3), k)) for k in range(3)]
    for image, region in np.ndindex(2, 3):
        expected = each[int(classes[image, region])][image, region]
        np.testing.assert_array_equal(chosen[image, region], expected)
    assert not np.allclose(each[0], each[1])


@pytest.mark.parametrize("layer", ["bn_relu", "evonorm_b0"])
@pytest.mark.parametrize("head", [BoxHead, MaskHead])
def test_batch_statistics_of_one_worker_are_those_of_its_images_alone(head, layer):
    """Four images of two workers: as if every worker were a device of its own."""
    regions = np.random.default_rng(0).standard_normal((4, 3, 2, 2, 5)).astype(np.float32)
    rest = (np.ones((4, 3), np.int32),) if head is MaskHead else ()
    fields = MASK if head is MaskHead else BOX
    variables = draw(head(norm_act(layer), **fields), regions, *rest)

    def run(regions, *rest, virtual_batch_size=None):
        module = head(norm_act(layer, virtual_batch_size=virtual_batch_size), **fields)
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        return jax.jit(apply)(variables, regions, *rest)

    together, stats = run(regions, *rest, virtual_batch_size=2)
    halves = [run(regions[i : i + 2], *(x[i : i + 2] for x in rest)) for i in (0, 2)]
    for leaf, first, second in zip(
        *(jax.tree.leaves(tree) for tree in (together, halves[0][0], halves[1][0])), strict=True
    ):
        np.testing.assert_allclose(leaf, np.concatenate([first, second]), rtol=1e-4, atol=1e-4)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), stats, mean)
    different, _ = run(regions, *rest)
    assert not np.allclose(jax.tree.leaves(different)[0], jax.tree.leaves(together)[0], atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_float32(dtype):
    regions = jax.ShapeDtypeStruct((1, 2, 7, 7, 4), dtype)
    classes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    box = BoxHead(norm_act("evonorm_s0"), **BOX, dtype=dtype)
    mask = MaskHead(norm_act("evonorm_s0"), **MASK, dtype=dtype)
    rpn = RegionProposalHead(norm_act("evonorm_s0"), 3, 1, 4, dtype=dtype)
    for module, args in (
        (box, (regions,)),
        (mask, (regions, classes)),
        (rpn, ({2: jax.ShapeDtypeStruct((1, 4, 4, 4), dtype)},)),
    ):
        answers, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *args)
        for leaf in jax.tree.leaves((answers, variables)):
            assert leaf.dtype == jnp.float32
