"""Scenes of digits: their masks are exact, and a scene depends on its key alone."""

import jax
import numpy as np
import pytest

from evonorm_jax.data.instances import create_instance_pipeline, instance_dataset_config
from evonorm_jax.data.instances.digit_scenes import draw_scene, objects_of
from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE, DIGITS = 64, 5


@pytest.fixture(scope="module")
def pipeline():
    config = instance_dataset_config(
        "digit_scenes",
        "generated",
        image_size=SIZE,
        max_instances=DIGITS,
        digit_sizes=(16, 32),
        num_train_examples=8,
        num_eval_examples=6,
    )
    return create_instance_pipeline(config, seed=0)


@pytest.fixture(scope="module")
def scenes(pipeline):
    """Eight scenes: images, owners, labels, boxes and masks."""
    resident = pipeline.resident()
    digits = resident["digit_images"], resident["digit_labels"]

    @jax.jit
    @jax.vmap
    def draw(key):
        image, owner, labels = draw_scene(
            key, *map(jax.numpy.asarray, digits), size=SIZE, max_digits=DIGITS, digit_sizes=(16, 32)
        )
        return image, owner, labels, *objects_of(owner, labels, mask_size=56)

    return jax.device_get(draw(jax.random.split(jax.random.key(1), 8)))


def test_boxes_and_masks_are_those_of_the_owners(scenes):
    _, owners, labels, boxes, classes, masks = scenes
    np.testing.assert_array_equal(labels, classes)
    assert (classes > 0).any(axis=1).all()
    for scene, number in np.argwhere(classes > 0):
        mask = owners[scene] == number
        rows, columns = np.nonzero(mask)
        box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert boxes[scene, number].tolist() == box
        pasted = paste_mask(
            masks[scene, number].astype(np.float32), boxes[scene, number], (SIZE, SIZE)
        )
        assert (pasted & mask).sum() / (pasted | mask).sum() > 0.95
        assert mask.sum() >= 24


def test_empty_places_have_no_box(scenes):
    _, _, _, boxes, classes, _ = scenes
    assert not boxes[classes == 0].any()
    assert (classes == 0).any()
    assert classes.max() <= 10


def test_digits_stand_out_from_the_noise(scenes):
    images, owners, _, _, _, _ = scenes
    assert images.dtype == np.uint8
    assert images[owners >= 0].mean() > 1.5 * images[owners < 0].mean()


def test_the_truth_is_that_of_the_pictures(pipeline):
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    truth = pipeline.truth
    assert len(truth["images"]) == pipeline.num_eval_examples == 6
    assert [category["name"] for category in truth["categories"]] == [str(i) for i in range(10)]
    assert pipeline.class_names[1] == "0"
    for record in truth["annotations"]:
        x, y, width, height = map(int, record["bbox"])
        picture = pipeline.eval_picture(record["image_id"] - 1)
        assert 24 <= record["area"] <= width * height
        assert picture[y : y + height, x : x + width].max() > 130
    assert pipeline.truth is truth


def test_evaluation_scenes_are_the_same_in_every_run(pipeline):
    config = pipeline._config.copy_and_resolve_references()
    config.num_eval_examples = 2
    other = create_instance_pipeline(config, seed=5, evaluation_only=True)
    assert other.num_train_examples == 0
    for index in range(2):
        np.testing.assert_array_equal(other.eval_picture(index), pipeline.eval_picture(index))


def test_training_scenes_depend_on_their_key_alone(pipeline):
    resident = pipeline.resident()
    batch = {"index": np.zeros(4, np.int32)}
    make = jax.jit(pipeline.train_examples)
    keys = jax.random.split(jax.random.key(3), 4)
    examples, backwards = make(resident, batch, keys), make(resident, batch, keys[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), examples, backwards)
    assert examples["image"].shape == (4, SIZE, SIZE, 3)
    assert examples["masks"].shape == (4, DIGITS, 56, 56)
    assert not np.array_equal(examples["image"][0], examples["image"][1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_eval_examples": 0}, "num_train_examples and num_eval_examples are 2000 and 0"),
        ({"path": "x"}, "config.dataset.path is 'x' and must be empty"),
        ({"in_memory": False}, "in_memory is False, but must be True for all sources but coco"),
        ({"num_classes": 5}, "num_classes is 5, but 'digit_scenes' has 11"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    config = instance_dataset_config(
        "digit_scenes", "generated", **({"num_eval_examples": 2, "image_size": 64} | fields)
    )
    with pytest.raises(UserError, match=message):
        create_instance_pipeline(config, seed=0)
