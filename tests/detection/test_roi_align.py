"""RoIAlign: known crops, the oracle, both forms, gradients, levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection import roi_align as module
from evonorm_jax.detection.roi_align import choose_levels, roi_align
from tests.detection import oracle

BOXES = np.array(
    [
        [0.0, 0, 64, 64],
        [3.7, 10.1, 20.9, 50.3],
        [0, 0, 5, 64],
        [50, 60.5, 64, 64],
        [31, 31, 31, 31],
        [10, 10, 12, 11],
    ],
    np.float32,
)


def random_maps(levels=(2, 3, 4), batch=2, channels=3, size=64, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        level: rng.standard_normal((batch, size >> level, size >> level, channels)).astype(dtype)
        for level in levels
    }


def batched(boxes, batch=2):
    return np.stack([boxes[::step] for step in (1, -1)][:batch])


def test_whole_pixels_are_the_map_itself():
    maps = random_maps(levels=(2,))
    box = np.array([[[8, 16, 40, 48]]] * 2, np.float32)  # pixels 2:10 and 4:12 of stride 4
    crop = jax.jit(functools.partial(roi_align, output_size=8))(maps, box)
    np.testing.assert_allclose(crop[:, 0], maps[2][:, 2:10, 4:12], atol=1e-6)


def test_a_ramp_gives_the_coordinates():
    # Pixel i of the map holds its centre in the image, so every sample is its own coordinate.
    centres = 4 * (np.arange(16) + 0.5)
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    maps = {2: np.stack([rows, columns], axis=-1)[None].astype(np.float32)}
    box = np.array([[[10.0, 6.0, 38.0, 48.0]]], np.float32)
    crop = jax.jit(functools.partial(roi_align, output_size=7))(maps, box)[0, 0]
    np.testing.assert_allclose(crop[:, 3, 0], 10 + 4 * (np.arange(7) + 0.5), rtol=1e-6)
    np.testing.assert_allclose(crop[2, :, 1], 6 + 6 * (np.arange(7) + 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("sampling_ratio", "half_pixel", "canonical_size"), [(1, True, 112.0), (2, False, 56.0)]
)
def test_the_oracle(sampling_ratio, half_pixel, canonical_size):
    maps, boxes = random_maps(), batched(BOXES)
    fields = {
        "output_size": 3,
        "sampling_ratio": sampling_ratio,
        "half_pixel": half_pixel,
        "canonical_size": canonical_size,
    }
    result = jax.jit(functools.partial(roi_align, **fields))(maps, boxes)
    assert result.shape == (2, 6, 3, 3, 3)
    for image in range(2):
        one = {level: leaf[image].astype(np.float64) for level, leaf in maps.items()}
        expected = oracle.roi_align(one, boxes[image].astype(np.float64), **fields)
        np.testing.assert_allclose(result[image], expected, atol=2e-6)


def test_gradient_of_the_maps_is_that_of_the_oracle():
    maps, boxes = random_maps(batch=1, channels=1, size=32), BOXES[None, 1:4] / 2
    weights = np.random.default_rng(1).standard_normal((1, 3, 2, 2, 1))

    def loss(maps, boxes):
        return jnp.sum(roi_align(maps, boxes, output_size=2, canonical_size=56.0) * weights)

    gradient, of_boxes = jax.jit(jax.grad(loss, argnums=(0, 1)))(maps, boxes)
    assert not np.any(of_boxes)
    double = {level: leaf[0].astype(np.float64) for level, leaf in maps.items()}
    for level, leaf in double.items():
        expected = np.zeros_like(leaf)
        for position in np.ndindex(leaf.shape):  # linear, so a difference is the derivative
            unit = {key: np.zeros_like(value) for key, value in double.items()}
            unit[level][position] = 1
            crop = oracle.roi_align(unit, boxes[0].astype(np.float64), 2, canonical_size=56.0)
            expected[position] = np.sum(crop * weights[0])
        np.testing.assert_allclose(gradient[level][0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_forms_are_one_map(dtype):
    maps = {level: jnp.asarray(leaf, dtype) for level, leaf in random_maps().items()}
    ordered = tuple(maps.values())
    points = module._sampling_points(
        jnp.asarray(batched(BOXES)),
        levels=[2, 3, 4],
        canonical_size=112.0,
        num_points=4,
        half_pixel=True,
    )

    @functools.partial(jax.jit, static_argnums=1)
    def value_and_gradient(maps, form):
        def loss(maps):
            values = form(maps, points)
            return jnp.sum(jnp.sin(values.astype(jnp.float32))), values

        gradient, values = jax.grad(loss, has_aux=True)(maps)
        return values, gradient

    gathered, expected = value_and_gradient(ordered, module._gather)
    multiplied, gradient = value_and_gradient(ordered, module._multiply)
    assert gathered.dtype == multiplied.dtype == jnp.dtype(dtype)
    # bfloat16 keeps 8 bits: the weights and the intermediate product are rounded to them.
    tolerance = {"float32": 1e-5, "bfloat16": 0.03}[dtype]
    np.testing.assert_allclose(
        gathered.astype(np.float32), multiplied.astype(np.float32), atol=tolerance
    )
    for left, right in zip(expected, gradient, strict=True):
        np.testing.assert_allclose(
            left.astype(np.float32), right.astype(np.float32), atol=4 * tolerance
        )


@pytest.mark.parametrize(("platform", "gathers"), [("cpu", True), ("cuda", True), ("tpu", False)])
def test_the_form_is_chosen_when_lowering(platform, gathers):
    maps = random_maps(levels=(2, 3))
    lowered = jax.export.export(
        jax.jit(functools.partial(roi_align, output_size=2)), platforms=[platform]
    )(maps, batched(BOXES))
    program = lowered.mlir_module()
    # The shapes of the maps are looked up by level in either form, from small constants.
    assert ("tensor<2x320x3xf32>" in program) == gathers
    assert ("dot_general" in program) != gathers


def test_levels_at_the_thresholds():
    sides = np.array([0, 50, 111.99, 112, 223.99, 224, 447.99, 448, 896, 5000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    levels = [2, 2, 2, 3, 3, 4, 4, 5, 6, 6]
    assert choose_levels(jnp.asarray(boxes), [2, 3, 4, 5, 6], 224.0).tolist() == levels
    # At 256 pixels with objects of 20: 56 instead of 224.
    assert choose_levels(jnp.asarray(boxes / 4), [2, 3, 4, 5, 6], 56.0).tolist() == levels
    assert choose_levels(jnp.asarray(boxes), [3, 4, 5], 224.0).tolist() == [
        min(max(level, 3), 5) for level in levels
    ]
    # A long thin box counts by its area.
    assert choose_levels(jnp.array([0.0, 0, 28, 448]), [2, 3, 4, 5, 6], 224.0) == 3


@pytest.mark.parity
def test_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    maps = random_maps(levels=(2,), channels=4)
    boxes = batched(BOXES[[0, 1, 2, 3, 5]])
    weights = np.random.default_rng(1).standard_normal((2, 5, 4, 7, 7)).astype(np.float32)

    features = torch.tensor(maps[2].transpose(0, 3, 1, 2), requires_grad=True)
    corners = [torch.tensor(image[:, [1, 0, 3, 2]]) for image in boxes]  # x first
    theirs = ops.roi_align(
        features, corners, output_size=7, spatial_scale=1 / 4, sampling_ratio=1, aligned=True
    )
    (theirs * torch.tensor(weights.reshape(10, 4, 7, 7))).sum().backward()

    def loss(maps):
        crop = roi_align(maps, boxes, output_size=7)
        return jnp.sum(crop * weights.transpose(0, 1, 3, 4, 2)), crop

    gradient, ours = jax.grad(loss, has_aux=True)(maps)
    expected = theirs.detach().numpy().reshape(2, 5, 4, 7, 7).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(gradient[2], features.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)
