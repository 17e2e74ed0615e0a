import itertools

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.data import Hosts, create_pipeline, dataset_config
from evonorm_jax.data.folder import list_class_folder
from evonorm_jax.errors import UserError
from tests.data.conftest import write_folder

pytestmark = pytest.mark.tensorflow


def stream_config(root, **overrides):
    small = {"path": str(root), "image_size": 16, "resize_size": 18, "num_parallel_calls": 2}
    return dataset_config("own", "folder", **small | overrides)


def pipeline_of(root, *, seed=3, **overrides):
    return create_pipeline(stream_config(root, **overrides), seed=seed)


def take(pipeline, hosts=None, *, start_step=0, number=6, batch_size=4):
    batches = pipeline.train_batches(
        start_step=start_step, batch_size=batch_size, hosts=hosts or Hosts()
    )
    taken = list(itertools.islice(batches, number))
    batches.close()
    return taken


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert set(batch) == {"image", "label"}
        for name, leaf in batch.items():
            np.testing.assert_array_equal(leaf, other[name].reshape(leaf.shape))


@pytest.fixture(scope="module")
def pipeline(image_folder):
    return pipeline_of(image_folder, randaugment_layers=1, randaugment_magnitude=9)


@pytest.fixture(scope="module")
def uninterrupted(pipeline):
    """Six steps of the only host; an epoch of 17 images has four."""
    return take(pipeline)


def test_batches(pipeline, uninterrupted):
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (17, 11)
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("ant", "bee", "cat"))
    for batch in uninterrupted:
        assert batch["image"].shape == (1, 4, 16, 16, 3)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    assert pipeline.resident() == {}


@pytest.mark.parametrize("start_step", [0, 1, 4, 5])
def test_resuming(pipeline, uninterrupted, start_step):
    rest = take(pipeline, start_step=start_step, number=6 - start_step)
    assert_same(rest, uninterrupted[start_step:])


def test_devices_and_hosts_see_the_same_global_batch(pipeline, uninterrupted):
    assert_same(take(pipeline, Hosts(local_device_count=4)), uninterrupted)
    parts = [take(pipeline, Hosts(process, 2, 1), number=2) for process in range(2)]
    for step in range(2):
        for name, leaf in uninterrupted[step].items():
            halves = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(halves.reshape(leaf.shape), leaf)


def test_the_seed_changes_order_and_augmentation(image_folder, uninterrupted):
    other = pipeline_of(image_folder, seed=4, randaugment_layers=1, randaugment_magnitude=9)
    assert (take(other, number=1)[0]["image"] != uninterrupted[0]["image"]).any()


def test_augmentation_differs_between_epochs(tmp_path):
    # One image per class: the same batch in every epoch, up to order and augmentation.
    root = write_folder(tmp_path, {"train": (1, 1), "val": (1, 1)})
    first, second = take(pipeline_of(root), batch_size=2, number=2)
    by_label = [
        {
            int(label): image
            for label, image in zip(batch["label"][0], batch["image"][0], strict=True)
        }
        for batch in (first, second)
    ]
    assert (by_label[0][0] != by_label[1][0]).any()
    assert (by_label[0][1] != by_label[1][1]).any()


def test_labels_belong_to_the_images(tmp_path):
    for label, color in enumerate([(255, 0, 0), (0, 255, 0)]):
        folder = tmp_path / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (20, 30), color).save(folder / f"{index}.jpg")
    pipeline = pipeline_of(tmp_path, eval_split="train")
    batches = take(pipeline, batch_size=8, number=1)
    batches += list(pipeline.eval_batches(batch_size=8, hosts=Hosts()))
    for batch in batches:
        brightest = batch["image"][0].mean(axis=(1, 2)).argmax(axis=-1)
        np.testing.assert_array_equal(brightest, batch["label"][0])


@pytest.mark.parametrize(
    ("batch_size", "process_count"), [(7, 1), (11, 1), (10, 2), (12, 2), (4, 3), (56, 3)]
)
def test_evaluation_counts_every_example_once(pipeline, batch_size, process_count):
    streams = [
        list(pipeline.eval_batches(batch_size=batch_size, hosts=Hosts(process, process_count)))
        for process in range(process_count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    seen = []
    for batch in itertools.chain(*streams):
        assert batch["image"].shape[2:] == (16, 16, 3)
        real = batch["mask"] == 1
        assert batch["image"][~real].max(initial=0) == 0
        seen += [image.tobytes() for image in batch["image"][real]]
    whole = next(pipeline.eval_batches(batch_size=11, hosts=Hosts()))["image"][0]
    assert sorted(seen) == sorted(image.tobytes() for image in whole)
    assert len(set(seen)) == 11


def test_train_crop_size(image_folder):
    pipeline = pipeline_of(image_folder, train_crop_size=12)
    assert pipeline.image_shape == (12, 12, 3)
    assert take(pipeline, number=1)[0]["image"].shape == (1, 4, 12, 12, 3)
    assert next(pipeline.eval_batches(batch_size=2, hosts=Hosts()))["image"].shape[2] == 16


def test_grey_images(image_folder):
    pipeline = pipeline_of(image_folder, mean=(0.0,), std=(1.0,))
    assert take(pipeline, number=1)[0]["image"].shape == (1, 4, 16, 16, 1)
    with pytest.raises(UserError, match="RandAugment and AutoAugment need RGB"):
        pipeline_of(image_folder, mean=(0.0,), std=(1.0,), randaugment_layers=1)


def test_grey_images_of_every_kind(tmp_path):
    kinds = [("CMYK", "jpg"), ("1", "bmp"), ("P", "gif"), ("RGBA", "webp")]
    root = write_folder(tmp_path, {"train": (2, 2)}, ending="png")
    for path, (mode, ending) in zip(sorted(root.glob("*/*/*.png")), kinds, strict=True):
        Image.open(path).convert(mode).save(path.with_suffix(f".{ending}"))
        path.unlink()
    pipeline = pipeline_of(root, eval_split="train", mean=(0.0,), std=(1.0,))
    batches = take(pipeline, number=1) + list(pipeline.eval_batches(batch_size=4, hosts=Hosts()))
    for batch in batches:
        assert batch["image"].shape == (1, 4, 16, 16, 1)
        assert all(len(np.unique(image)) > 10 for image in batch["image"][0])


def test_a_broken_image_for_pillow_is_named(tmp_path):
    root = write_folder(tmp_path, {"train": (1, 1), "val": (2, 2)}, ending="webp")
    victim = root / "val" / "bee" / "001.webp"
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(UserError, match=r"val/bee/001\.webp' cannot be decoded \([^\n]+\)"):
        list(pipeline_of(root).eval_batches(batch_size=4, hosts=Hosts()))


def test_evaluation_only(image_folder, tmp_path):
    (tmp_path / "val").symlink_to(image_folder / "val")
    evaluation, whole = (
        create_pipeline(stream_config(root), seed=3, evaluation_only=alone)
        for root, alone in ((tmp_path, True), (image_folder, False))
    )
    assert (evaluation.num_train_examples, evaluation.num_eval_examples) == (0, 11)
    assert evaluation.class_names == ("ant", "bee", "cat")
    batches = (next(p.eval_batches(batch_size=11, hosts=Hosts())) for p in (evaluation, whole))
    np.testing.assert_array_equal(*(batch["image"] for batch in batches))
    with pytest.raises(UserError, match="created for evaluation only"):
        take(evaluation)
    with pytest.raises(UserError, match="no split 'train'"):
        pipeline_of(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "removed"])
def test_a_broken_image_is_named(tmp_path, damage):
    root = write_folder(tmp_path, {"train": (3, 3), "val": (2, 2)})
    pipeline = pipeline_of(root)
    for split in ("train", "val"):
        victim = root / split / "bee" / "001.jpg"
        contents = {"truncated": victim.read_bytes()[:300], "text": b"hello", "empty": b""}
        if damage == "removed":
            victim.unlink()
        else:
            victim.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"train/bee/001\.jpg' cannot be decoded \(.+\)"):
        take(pipeline, batch_size=3, number=2)
    with pytest.raises(UserError, match=r"val/bee/001\.jpg' cannot be decoded \(.+\)"):
        list(pipeline.eval_batches(batch_size=3, hosts=Hosts()))


def test_bad_batches(pipeline):
    with pytest.raises(UserError, match="batch of 18 does not fit"):
        take(pipeline, batch_size=18)
    with pytest.raises(UserError, match="batch of 3 cannot be shared"):
        take(pipeline, Hosts(local_device_count=2), batch_size=3)
    with pytest.raises(UserError, match="start_step must be 0 or more"):
        take(pipeline, start_step=-1)


def test_parts_of_a_split(image_folder):
    pipeline = pipeline_of(image_folder, train_split="train[:50%]", eval_split="train[50%:]")
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (8, 9)
    assert len(list_class_folder(stream_config(image_folder)).train.paths) == 17


def test_a_flat_folder_has_the_split_of_the_reader_in_memory(tmp_path):
    root = write_folder(tmp_path / "photos", {"": (5, 5, 3)})
    streamed, in_memory = (pipeline_of(root, in_memory=choice) for choice in (False, True))
    assert (streamed.num_train_examples, streamed.num_eval_examples) == (10, 3)
    assert streamed.class_names == in_memory.class_names == ("ant", "bee", "cat")
    (batch,) = streamed.eval_batches(batch_size=3, hosts=Hosts())
    resident = in_memory.resident()
    np.testing.assert_array_equal(batch["label"][0], resident["eval_labels"])
    # The two decoders differ by some grey values, the files by many.
    images = np.concatenate([resident["eval_images"], resident["train_images"]]).astype(int)
    differences = np.abs(batch["image"][0][:, None].astype(int) - images).mean((2, 3, 4))
    assert differences.argmin(1).tolist() == [0, 1, 2]
    labels = [step["label"] for step in take(streamed, batch_size=10, number=1)]
    assert (
        np.bincount(labels[0].ravel()).tolist()
        == np.bincount(resident["train_labels"]).tolist()
        == [4, 4, 2]
    )
