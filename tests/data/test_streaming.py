import itertools

import numpy as np
import pytest

from evonorm_jax.data import Hosts, create_pipeline, dataset_config
from evonorm_jax.errors import UserError


def fake_stream(*, evaluation_only=False, **overrides):
    sizes = {"num_train_examples": 37, "num_eval_examples": 23, "num_classes": 5}
    small = {"image_size": 12, "resize_size": 0, "in_memory": False}
    config = dataset_config("imagenet2012", "fake", **small | sizes | overrides)
    return create_pipeline(config, seed=3, evaluation_only=evaluation_only)


def take(pipeline, hosts, *, start_step=0, number=4, batch_size=8):
    batches = pipeline.train_batches(start_step=start_step, batch_size=batch_size, hosts=hosts)
    return list(itertools.islice(batches, number))


def test_train_batches():
    batches = take(fake_stream(), Hosts(local_device_count=2))
    for batch in batches:
        assert batch["image"].shape == (2, 4, 12, 12, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].shape == (2, 4)
        assert batch["label"].dtype == np.int32
    assert (batches[0]["image"] != batches[1]["image"]).any()


@pytest.mark.parametrize("start_step", [1, 4, 5])
def test_resuming(start_step):
    whole = take(fake_stream(), Hosts(), number=start_step + 2)[start_step:]
    for expected, batch in zip(
        whole, take(fake_stream(), Hosts(), start_step=start_step, number=2), strict=True
    ):
        np.testing.assert_array_equal(batch["image"], expected["image"])
        np.testing.assert_array_equal(batch["label"], expected["label"])


def test_hosts_share_the_global_batch():
    whole = take(fake_stream(), Hosts())
    parts = [take(fake_stream(), Hosts(process, 2, 2)) for process in range(2)]
    for step, batch in enumerate(whole):
        images = np.concatenate([part[step]["image"] for part in parts])
        np.testing.assert_array_equal(images.reshape(batch["image"].shape), batch["image"])


@pytest.mark.parametrize("batch_size", [7, 22, 23, 24, 116])
@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_evaluation_counts_every_example_once(batch_size, process_count):
    pipeline = fake_stream()
    streams = [
        list(pipeline.eval_batches(batch_size=batch_size, hosts=Hosts(process, process_count)))
        for process in range(process_count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    labels = []
    for batch in itertools.chain(*streams):
        assert batch["image"].shape[2:] == (12, 12, 3)
        labels += batch["label"][batch["mask"] == 1].tolist()
    assert sorted(labels) == sorted(index % 5 for index in range(23))


def test_evaluation_only():
    pipeline = fake_stream(evaluation_only=True, num_train_examples=0)
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (0, 23)
    batches, expected = (
        list(each.eval_batches(batch_size=10, hosts=Hosts())) for each in (pipeline, fake_stream())
    )
    for batch, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch["image"], other["image"])
    with pytest.raises(UserError, match="created for evaluation only"):
        take(pipeline, Hosts())


def test_examples_are_normalised_on_the_device():
    pipeline = fake_stream(mean=(100.0,) * 3, std=(50.0,) * 3, train_crop_size=10)
    assert (pipeline.resident(), pipeline.image_shape) == ({}, (10, 10, 3))
    train = {name: leaf[0] for name, leaf in take(pipeline, Hosts(), number=1)[0].items()}
    examples = pipeline.train_examples({}, train, None)
    assert set(examples) == {"image", "label"}
    np.testing.assert_allclose(examples["image"], (train["image"] - 100.0) / 50.0, rtol=1e-6)
    np.testing.assert_array_equal(examples["label"], train["label"])
    evaluation = next(pipeline.eval_batches(batch_size=30, hosts=Hosts()))
    examples = pipeline.eval_examples({}, {k: v[0] for k, v in evaluation.items()})
    assert examples["image"].shape == (30, 12, 12, 3)
    assert examples["mask"].sum() == 23
