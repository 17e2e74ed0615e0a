"""Tiny data sets that TFDS has prepared: read in memory and as a stream, without their code."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.data import Hosts, create_pipeline, dataset_config
from evonorm_jax.errors import UserError
from tests.data.conftest import smooth_image

pytestmark = pytest.mark.tensorflow

SIZES = {"train": 23, "test": 11}


def example(number, height, width):
    return {"image": smooth_image(number, height, width), "label": number % 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepares photos (JPEG of many sizes, four files per split), squares (PNG) and others."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")

    def write(name, features, make, file_format="tfrecord"):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                split: [(index, make(100 * len(split) + index)) for index in range(size)]
                for split, size in SIZES.items()
            },
            data_dir=root,
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(num_shards=4),
            disable_shuffling=file_format == "tfrecord",
        )

    label = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
    photo = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    square = tfds.features.Image(shape=(12, 12, 3), encoding_format="png")
    write(
        "photos",
        {"image": photo, "label": label},
        lambda number: example(number, 20 + number % 5, 24 + number % 3),
    )
    write("squares", {"image": square, "label": label}, lambda number: example(number, 12, 12))
    write("no_label", {"image": square}, lambda number: {"image": smooth_image(number, 12, 12)})
    write(
        "array_records",
        {"image": square, "label": label},
        lambda number: example(number, 12, 12),
        "array_record",
    )
    return str(root)


def tfds_config(name, data_dir, **overrides):
    small = {"path": data_dir, "eval_split": "test", "image_size": 12, "resize_size": 0}
    return dataset_config(name, "tfds", **small | overrides)


def stream_of(data_dir, *, seed=3, **overrides):
    overrides = {"shuffle_buffer": 8} | overrides
    return create_pipeline(tfds_config("photos", data_dir, **overrides), seed=seed)


def take(pipeline, hosts=None, *, start_step=0, number=7, batch_size=4):
    batches = pipeline.train_batches(
        start_step=start_step, batch_size=batch_size, hosts=hosts or Hosts()
    )
    taken = list(itertools.islice(batches, number))
    batches.close()
    return taken


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        for name, leaf in batch.items():
            np.testing.assert_array_equal(leaf, other[name].reshape(leaf.shape))


def images_of(batches):
    """The bytes of every image that the mask does not hide."""
    return [
        image.tobytes()
        for batch in batches
        for image, real in zip(
            batch["image"].reshape(-1, *batch["image"].shape[2:]),
            batch.get("mask", np.ones(batch["label"].shape)).reshape(-1),
            strict=True,
        )
        if real
    ]


def test_in_memory_is_exact_for_png_of_the_right_size(data_dir):
    pipeline = create_pipeline(tfds_config("squares", data_dir, in_memory=True), seed=0)
    arrays = pipeline.resident()
    for split, key in (("train", "train"), ("test", "eval")):
        numbers = [100 * len(split) + index for index in range(SIZES[split])]
        expected = np.stack([smooth_image(number, 12, 12) for number in numbers])
        np.testing.assert_array_equal(arrays[f"{key}_images"], expected)
        np.testing.assert_array_equal(arrays[f"{key}_labels"], [n % 3 for n in numbers])
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("ant", "bee", "cat"))


def test_in_memory_resizes_others_and_takes_parts(data_dir):
    config = tfds_config(
        "photos", data_dir, in_memory=True, train_split="train[:16]", eval_split="train[16:]"
    )
    pipeline = create_pipeline(config, seed=0)
    assert pipeline.resident()["train_images"].shape == (16, 12, 12, 3)
    assert pipeline.num_eval_examples == 7


@pytest.mark.parametrize("in_memory", [True, False])
def test_evaluation_only(data_dir, in_memory):
    # There is no such training split, so that reading it would fail.
    config = tfds_config("squares", data_dir, in_memory=in_memory, train_split="absent")
    pipeline = create_pipeline(config, seed=0, evaluation_only=True)
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (0, 11)
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("ant", "bee", "cat"))
    expected = np.stack([smooth_image(400 + index, 12, 12) for index in range(11)])
    batch = next(pipeline.eval_batches(batch_size=11, hosts=Hosts()))
    images = pipeline.resident()["eval_images"] if in_memory else batch["image"][0]
    np.testing.assert_array_equal(images, expected)
    with pytest.raises(UserError, match="created for evaluation only"):
        take(pipeline)
    with pytest.raises(UserError, match="has no split 'absent'"):
        create_pipeline(config, seed=0)


@pytest.fixture(scope="module")
def uninterrupted(data_dir):
    """Seven steps of the only host; an epoch of 23 images has five."""
    return take(stream_of(data_dir))


def test_stream(data_dir, uninterrupted):
    assert len(list(Path(data_dir).glob("photos/*/photos-train.tfrecord*"))) == 4
    pipeline = stream_of(data_dir)
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (23, 11)
    assert (pipeline.num_classes, pipeline.image_shape) == (3, (12, 12, 3))
    assert uninterrupted[0]["image"].shape == (1, 4, 12, 12, 3)
    assert uninterrupted[0]["label"].dtype == np.int32


def test_an_epoch_shows_no_record_twice_and_epochs_differ(data_dir):
    # The whole image without flip: an image is then known by its pixels, if its shape is square
    # enough for the crop to keep it whole.
    config = tfds_config(
        "squares", data_dir, in_memory=False, min_crop_area=1.0, flip=False, shuffle_buffer=8
    )
    batches = take(create_pipeline(config, seed=0), batch_size=5, number=8)
    first, second = images_of(batches[:4]), images_of(batches[4:])
    known = {smooth_image(500 + index, 12, 12).tobytes() for index in range(23)}
    assert len(set(first)) == len(set(second)) == 20
    assert set(first) | set(second) <= known
    assert first != second


@pytest.mark.parametrize("start_step", [1, 5, 6])
def test_resuming(data_dir, uninterrupted, start_step):
    rest = take(stream_of(data_dir), start_step=start_step, number=7 - start_step)
    assert_same(rest, uninterrupted[start_step:])


def test_devices_see_the_same_batch_and_seeds_another(data_dir, uninterrupted):
    four = take(stream_of(data_dir), Hosts(local_device_count=4), number=2)
    assert_same(four, uninterrupted[:2])
    other = take(stream_of(data_dir, seed=4), number=1)
    assert (other[0]["image"] != uninterrupted[0]["image"]).any()


def test_hosts_read_disjoint_parts(data_dir):
    config = tfds_config(
        "squares", data_dir, in_memory=False, min_crop_area=1.0, flip=False, shuffle_buffer=8
    )
    parts = [
        set(
            images_of(
                take(
                    create_pipeline(config, seed=0),
                    Hosts(process, 2),
                    batch_size=22,
                    number=1,
                )
            )
        )
        for process in range(2)
    ]
    assert [len(part) for part in parts] == [11, 11]
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("batch_size", "process_count"), [(7, 1), (11, 1), (10, 2), (12, 2), (4, 3), (56, 3)]
)
def test_evaluation_counts_every_example_once(data_dir, batch_size, process_count):
    config = tfds_config("squares", data_dir, in_memory=False)
    pipeline = create_pipeline(config, seed=0)
    streams = [
        list(pipeline.eval_batches(batch_size=batch_size, hosts=Hosts(process, process_count)))
        for process in range(process_count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    seen = images_of(itertools.chain(*streams))
    assert sorted(seen) == sorted(
        smooth_image(400 + index, 12, 12).tobytes() for index in range(11)
    )


def test_more_hosts_than_examples(data_dir):
    config = tfds_config("squares", data_dir, in_memory=False, eval_split="test[:1]")
    pipeline = create_pipeline(config, seed=0)
    streams = [
        list(pipeline.eval_batches(batch_size=2, hosts=Hosts(process, 2))) for process in range(2)
    ]
    assert [[batch["mask"].sum() for batch in stream] for stream in streams] == [[1], [0]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_broken_record_is_named(data_dir, tmp_path, in_memory):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    )
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")  # TFDS takes files over as they are
    intact = tmp_path / "intact.jpg"
    Image.fromarray(smooth_image(0, 12, 12)).save(intact)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="broken",
        version="1.0.0",
        features=features,
        split_datasets={
            "train": [
                (index, {"image": str(broken if index == 3 else intact), "label": 0})
                for index in range(6)
            ]
        },
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    config = tfds_config("broken", str(tmp_path), eval_split="train", in_memory=in_memory)
    with pytest.raises(UserError, match=r"'broken-train.tfrecord-\S+__3' cannot be decoded \(.+\)"):
        list(create_pipeline(config, seed=0).eval_batches(batch_size=2, hosts=Hosts()))


def test_a_missing_set_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as caught:
        create_pipeline(tfds_config("cifar10", str(tmp_path)), seed=0)
    message = str(caught.value)
    assert f"'cifar10' is not prepared in {tmp_path} (looked for cifar10/3." in message
    assert "python -m experiments.prepare_data --dataset=cifar10" in message
    assert "--config.dataset.path=/path" in message
    assert "python -m experiments.train --config configs/digits_resnet_evonorm_s0.py" in message
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"):
        create_pipeline(dataset_config("imagenet2012", "tfds", path=str(tmp_path)), seed=0)
    assert list(tmp_path.iterdir()) == []


def copied(data_dir, tmp_path, name="photos"):
    shutil.copytree(Path(data_dir) / name, tmp_path / name)
    return tmp_path / name / "1.0.0" / "features.json"


@pytest.mark.hostile
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_a_prepared_folder_imports_no_module(data_dir, tmp_path, monkeypatch, file, key):
    imported = tmp_path / "imported"
    (tmp_path / "hostile_module.py").write_text(f"open({str(imported)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    features = copied(data_dir, tmp_path)
    content = json.loads(features.read_text())
    label = content["featuresDict"]["features"]["label"]
    if key == "type":
        label |= {"type": "hostile_module.Label", "content": {}}
        del label["pythonClassName"]
    else:
        label["pythonClassName"] = "hostile_module.Label"
    target = features.with_name(file)
    if file == "dataset_info.json":
        info = json.loads(target.read_text())
        content = info | {"features": content}
    target.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{file}' names the feature hostile_module\.Label, and"):
        create_pipeline(tfds_config("photos", str(tmp_path)), seed=0)
    assert not imported.exists()


@pytest.mark.hostile
def test_damaged_features_are_named(data_dir, tmp_path):
    features = copied(data_dir, tmp_path)
    for text in ("", "{", "[" * 100_000):
        features.write_text(text)
        with pytest.raises(UserError, match=r"features\.json' cannot be read as JSON"):
            create_pipeline(tfds_config("photos", str(tmp_path)), seed=0)
    with pytest.raises(UserError, match=r"config\.dataset\.name='a b' is no name of a TFDS set"):
        create_pipeline(tfds_config("a b", str(tmp_path)), seed=0)


@pytest.mark.hostile
def test_labels_beyond_the_classes_are_refused(data_dir, tmp_path):
    features = copied(data_dir, tmp_path)
    features.write_text(features.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    names = features.with_name("label.labels.txt")
    names.write_text("ant\nbee\n")
    for in_memory in (True, False):
        config = tfds_config("photos", str(tmp_path), in_memory=in_memory, shuffle_buffer=8)
        with pytest.raises(UserError, match=r"photos/1\.0\.0' run from 0 to 2, but with 2 classes"):
            list(create_pipeline(config, seed=0).eval_batches(batch_size=11, hosts=Hosts()))
    pipeline = create_pipeline(config, seed=0)
    with pytest.raises(UserError, match="with 2 classes they must lie in"):
        take(pipeline, batch_size=16, number=1)


def test_sets_that_cannot_be_used(data_dir):
    with pytest.raises(UserError, match="TFDS knows no data set 'no_such_set'"):
        create_pipeline(tfds_config("no_such_set", data_dir), seed=0)
    with pytest.raises(UserError, match=r"array_records/1.0.0' .* is prepared as array_record"):
        create_pipeline(tfds_config("array_records", data_dir), seed=0)
    with pytest.raises(UserError, match=r"no image classification set: .* but has image"):
        create_pipeline(tfds_config("no_label", data_dir), seed=0)
    with pytest.raises(UserError, match=r"has no split 'validation': it has .*train"):
        create_pipeline(tfds_config("squares", data_dir, eval_split="validation"), seed=0)
    with pytest.raises(UserError, match="has 3"):
        create_pipeline(tfds_config("squares", data_dir, num_classes=10), seed=0)
