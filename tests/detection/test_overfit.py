"""Four images learnt by heart: minutes, `pytest -m slow tests/detection`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.detection import MaskRCNN, Truth, create_detector, detection_losses
from evonorm_jax.detection.coco_evaluation import evaluate_detections
from evonorm_jax.detection.coco_masks import encode_mask

pytestmark = pytest.mark.slow

SIZE, IMAGES, OBJECTS, MASK = 128, 4, 6, 56
STEPS, WARMUP, LEARNING_RATE, MOMENTUM = 300, 30, 0.03, 0.9


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """With all optimisations: hundreds of steps follow one compilation."""


def draw_images():
    """Bright ellipses on noise, of one class; images, truth, and the same as COCO's JSON."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    images = rng.normal(0, 0.3, (IMAGES, SIZE, SIZE, 3)).astype(np.float32)
    boxes = np.zeros((IMAGES, OBJECTS, 4), np.float32)
    masks = np.zeros((IMAGES, OBJECTS, MASK, MASK), np.uint8)
    annotations = []
    for image, slot in np.ndindex(IMAGES, OBJECTS):
        cell = np.array(divmod(slot, 3)) + 0.5  # a place of its own among 2 x 3
        radii = rng.uniform(7, 18, 2)
        centre = cell * np.array([SIZE / 2, SIZE / 3]) + rng.uniform(-3, 3, 2)
        mask = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
        images[image][mask] += rng.uniform(1, 2)
        where = np.argwhere(mask)
        (y1, x1), (y2, x2) = where.min(axis=0), where.max(axis=0) + 1
        boxes[image, slot] = y1, x1, y2, x2
        inside = jax.image.resize(mask[y1:y2, x1:x2].astype(np.float32), (MASK, MASK), "linear")
        masks[image, slot] = np.asarray(inside) > 0.5
        annotations.append(
            {
                "id": 1 + len(annotations),
                "image_id": image,
                "category_id": 1,
                "bbox": [int(x1), int(y1), int(x2 - x1), int(y2 - y1)],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            }
        )
    coco = {
        "images": [{"id": image, "height": SIZE, "width": SIZE} for image in range(IMAGES)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "ellipse"}],
    }
    return images, Truth(boxes, np.ones((IMAGES, OBJECTS), np.int32), masks), coco


@pytest.mark.parametrize("layer", ["evonorm_s0", "evonorm_b0", "bn_relu", "gn_relu"])
def test_overfit(layer):
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    detector = create_detector(
        "maskrcnn_r18_fpn",
        num_classes=2,
        norm_act=layer,
        backbone_fields={"num_filters": 16},
        anchor_scale=4.0,
        roi_canonical_size=56.0,
        **dict.fromkeys(("fpn_filters", "rpn_filters", "head_filters"), 32),
        head_units=128,
        train_candidates=256,
        train_proposals=128,
        box_samples=64,
        mask_samples=16,
    )
    images, truth, coco = draw_images()
    state = dict(jax.jit(detector.init)(jax.random.key(0), images))
    params = state.pop("params")

    @jax.jit
    def step(params, momentum, state, index):
        keys = jax.vmap(
            lambda image: jax.random.fold_in(jax.random.fold_in(jax.random.key(1), index), image)
        )(jnp.arange(IMAGES))

        def loss(params):
            outputs, new = detector.apply(
                {"params": params} | state,
                images,
                truth,
                keys,
                method=MaskRCNN.training_outputs,
                mutable=["batch_stats"],
            )
            return sum(detection_losses(outputs).values()), dict(new)

        (value, state_), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        decay = jnp.cos(jnp.pi / 2 * index / STEPS) ** 2
        rate = LEARNING_RATE * jnp.minimum(1, index / WARMUP) * decay
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, momentum, gradient)
        return jax.tree.map(lambda p, m: p - rate * m, params, momentum), momentum, state_, value

    momentum = jax.tree.map(jnp.zeros_like, params)
    for index in range(STEPS):
        params, momentum, state, value = step(params, momentum, state, index)
    assert value < 0.5

    detections = jax.jit(detector.apply)({"params": params} | state, images)
    rows = {name: np.asarray(leaf) for name, leaf in detections._asdict().items()}
    metrics = evaluate_detections(coco, rows | {"index": np.arange(IMAGES)})
    assert metrics["box_ap50"] >= 0.95
    assert metrics["box_ap"] >= 0.7
    assert metrics["mask_ap50"] >= 0.95
    assert metrics["mask_ap"] >= 0.7
