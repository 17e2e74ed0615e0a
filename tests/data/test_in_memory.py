import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.data import Hosts, create_pipeline, dataset_config
from evonorm_jax.errors import UserError

LAYOUTS = [(1, 1), (1, 2), (1, 8), (2, 1), (2, 4)]  # processes, devices of each


def fake_cifar(**overrides):
    sizes = {"num_train_examples": 37, "num_eval_examples": 23, "num_classes": 5}
    sizes |= {"image_size": 12, "pad": 2}
    return create_pipeline(dataset_config("cifar10", "fake", **sizes | overrides), seed=3)


@functools.partial(jax.jit, static_argnums=0)
def augmented(pipeline, batch, keys):
    """What the devices make of `[devices, b]` examples."""
    resident = jax.tree.map(jnp.asarray, pipeline.resident())
    examples = jax.vmap(pipeline.train_examples, in_axes=(None, 0, 0))(resident, batch, keys)
    return examples["image"], examples["label"]


def all_hosts(process_count, local_device_count):
    return [Hosts(process, process_count, local_device_count) for process in range(process_count)]


def global_train_batches(pipeline, layout, *, start_step=0, number=4, batch_size=16):
    """Augmented images and labels `[number, batch_size, ...]`, gathered over hosts and devices."""
    streams = [
        pipeline.train_batches(start_step=start_step, batch_size=batch_size, hosts=hosts)
        for hosts in all_hosts(*layout)
    ]
    images, labels = [], []
    for step in range(start_step, start_step + number):
        index = np.concatenate([next(stream)["index"] for stream in streams])  # [devices, b]
        keys = jax.random.split(jax.random.key(step), batch_size).reshape(index.shape)
        pixels, classes = augmented(pipeline, {"index": index}, keys)
        images.append(np.asarray(pixels).reshape(batch_size, *pixels.shape[2:]))
        labels.append(np.asarray(classes).reshape(batch_size))
    return np.stack(images), np.stack(labels)


def test_every_layout_sees_the_same_global_batch():
    pipeline = fake_cifar()
    images, labels = global_train_batches(pipeline, LAYOUTS[0])
    assert images.shape == (4, 16, 12, 12, 3)
    assert images.dtype == np.float32
    for layout in LAYOUTS[1:]:
        other_images, other_labels = global_train_batches(pipeline, layout)
        np.testing.assert_array_equal(other_images, images)
        np.testing.assert_array_equal(other_labels, labels)


def test_resuming_sees_the_same_pixels():
    pipeline = fake_cifar()
    images, labels = global_train_batches(pipeline, (1, 1))
    for start_step in (1, 2, 3):  # an epoch has two steps
        resumed_images, resumed_labels = global_train_batches(
            pipeline, (1, 1), start_step=start_step, number=4 - start_step
        )
        np.testing.assert_array_equal(resumed_images, images[start_step:])
        np.testing.assert_array_equal(resumed_labels, labels[start_step:])


def test_an_epoch_shows_every_example_once():
    pipeline = fake_cifar()
    batches = pipeline.train_batches(start_step=0, batch_size=1, hosts=Hosts())
    for _ in range(2):
        epoch = [int(batch["index"][0, 0]) for batch in itertools.islice(batches, 37)]
        assert sorted(epoch) == list(range(37))


@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 24, 114, 115, 116])
@pytest.mark.parametrize("layout", [*LAYOUTS, (3, 1)])
def test_evaluation_counts_every_example_once(batch_size, layout):
    pipeline = fake_cifar()
    hosts = all_hosts(*layout)
    streams = [list(pipeline.eval_batches(batch_size=batch_size, hosts=host)) for host in hosts]
    assert len({len(stream) for stream in streams}) == 1
    seen = []
    for batch in itertools.chain(*streams):
        assert batch["mask"].shape == batch["index"].shape
        assert len(batch["mask"]) == layout[1]
        seen += batch["index"][batch["mask"] == 1].tolist()
        assert set(np.unique(batch["mask"])) <= {0.0, 1.0}
    assert sorted(seen) == list(range(23))


def test_eval_examples():
    pipeline = fake_cifar()
    batch = next(pipeline.eval_batches(batch_size=32, hosts=Hosts()))
    one_device = {name: leaf[0] for name, leaf in batch.items()}
    examples = pipeline.eval_examples(pipeline.resident(), one_device)
    assert set(examples) == {"image", "label", "mask"}
    arrays = pipeline.resident()
    config = dataset_config("cifar10", "fake")
    expected = (arrays["eval_images"] - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(examples["image"][:23], expected, atol=1e-6)
    np.testing.assert_array_equal(examples["label"][:23], arrays["eval_labels"])
    np.testing.assert_array_equal(examples["mask"], np.arange(32) < 23)


def test_crops_of_24_train_while_32_evaluate():
    pipeline = fake_cifar(
        image_size=32, train_crop_size=24, pad=0, flip=False, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    assert pipeline.image_shape == (24, 24, 3)
    images, _ = global_train_batches(pipeline, (1, 1), number=1)
    assert images.shape == (1, 16, 24, 24, 3)
    index = next(pipeline.train_batches(start_step=0, batch_size=16, hosts=Hosts()))["index"][0]
    for crop, source in zip(images[0], pipeline.resident()["train_images"][index], strict=True):
        found = [
            (top, left)
            for top, left in itertools.product(range(9), repeat=2)
            if (source[top : top + 24, left : left + 24] == crop).all()
        ]
        assert len(found) == 1
    batch = next(pipeline.eval_batches(batch_size=4, hosts=Hosts()))
    examples = pipeline.eval_examples(pipeline.resident(), {k: v[0] for k, v in batch.items()})
    assert examples["image"].shape == (4, 32, 32, 3)


def test_a_batch_that_does_not_fit():
    pipeline = fake_cifar()
    with pytest.raises(UserError, match="batch of 38 does not fit"):
        next(pipeline.train_batches(start_step=0, batch_size=38, hosts=Hosts()))
    with pytest.raises(UserError, match="cannot be shared by 8 devices"):
        next(pipeline.train_batches(start_step=0, batch_size=12, hosts=Hosts(0, 2, 4)))
