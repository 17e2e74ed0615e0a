"""Mirror images and scale jitter: pictures, boxes and masks move together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.data.instances.augment import augment, mirror, rescale
from evonorm_jax.detection.paste import paste_mask

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 32
scaled = jax.jit(rescale)


def example():
    """A picture of 32x24 that is bright where its one object is; the second place is empty."""
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    image[:, :24] = 20
    mask = np.zeros((SIZE, SIZE), bool)
    mask[6:18, 2:10] = mask[6:12, 10:14] = True  # no mirror image of itself
    image[mask] = 200
    inside = mask[6:18, 2:14]
    masks = np.stack([np.kron(inside, np.ones((2, 2))), np.zeros((24, 24))]).astype(np.uint8)
    return {
        "image": jnp.asarray(image),
        "valid_size": jnp.array([32, 24], jnp.int32),
        "boxes": jnp.array([[6, 2, 18, 14], [0, 0, 0, 0]], jnp.float32),
        "classes": jnp.array([3, 0], jnp.int32),
        "masks": jnp.asarray(masks),
    }


def overlap_with_bright(found):
    """IoU of the pasted mask of the first object with the bright pixels."""
    pasted = paste_mask(np.asarray(found["masks"][0], np.float32), found["boxes"][0], (SIZE, SIZE))
    bright = np.asarray(found["image"][..., 0]) > 110
    return (pasted & bright).sum() / (pasted | bright).sum()


def test_the_example_itself():
    assert overlap_with_bright(example()) == 1


def test_mirror_image():
    found = mirror(example())
    assert found["boxes"].tolist() == [[6, 10, 18, 22], [0, 0, 0, 0]]
    assert overlap_with_bright(found) == 1
    np.testing.assert_array_equal(found["image"][:, :24], example()["image"][:, 23::-1])
    assert not found["image"][:, 24:].any()
    jax.tree.map(np.testing.assert_array_equal, mirror(found), example())


@pytest.mark.parametrize(
    ("scale", "place", "valid_size", "box"),
    [
        (1.0, (0.0, 0.0), (32, 24), (6, 2, 18, 14)),
        (0.5, (0.3, 0.9), (16, 12), (3, 1, 9, 7)),
        (2.0, (0.0, 0.0), (32, 32), (12, 4, 32, 28)),  # cut at the bottom
        (2.0, (0.25, 0.5), (32, 32), (4, 0, 28, 20)),  # offsets 8 of 32 and 8 of 16
    ],
)
def test_scaled_pictures(scale, place, valid_size, box):
    found = scaled(example(), jnp.float32(scale), jnp.array(place))
    assert found["valid_size"].tolist() == list(valid_size)
    np.testing.assert_allclose(found["boxes"][0], box, atol=1e-4)
    assert found["classes"].tolist() == [3, 0]
    assert overlap_with_bright(found) > 0.85
    assert not found["image"][valid_size[0] :].any()
    assert not found["image"][:, valid_size[1] :].any()


def test_an_object_outside_of_the_canvas_is_dropped():
    found = scaled(example(), jnp.float32(2.0), jnp.array([0.999, 0.0]))
    # Its lower edge lies at 36, of which 32 are cut.
    assert found["classes"].tolist() == [3, 0]
    found = scaled(example(), jnp.float32(4.0), jnp.array([0.999, 0.0]))
    assert found["classes"].tolist() == [0, 0]
    assert not found["boxes"].any()


def test_an_example_depends_on_its_own_key_alone():
    run = jax.jit(jax.vmap(functools.partial(augment, flip=True, scale_jitter=(0.5, 2.0))))
    keys = jax.random.split(jax.random.key(0), 6)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 6), example())
    together, reversed_ = run(keys, batch), run(keys[::-1], batch)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), together, reversed_)
    assert len({tuple(size.tolist()) for size in together["valid_size"]}) > 2
    for leaf in jax.tree.leaves(together):
        assert np.isfinite(leaf).all()


def test_without_augmentation_nothing_changes():
    found = augment(jax.random.key(0), example(), flip=False, scale_jitter=(1.0, 1.0))
    jax.tree.map(np.testing.assert_array_equal, found, example())
