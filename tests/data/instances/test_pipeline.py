"""Batches of images with objects: in memory or read ahead, over devices and from any step."""

import jax
import numpy as np
import pytest

from evonorm_jax.data import Hosts
from evonorm_jax.data.instances import create_instance_pipeline, instance_dataset_config
from evonorm_jax.data.instances.coco_json import list_coco_folder, read_pixels
from evonorm_jax.data.instances.examples import make_example
from evonorm_jax.data.instances.nuclei import read_nuclei
from evonorm_jax.data.instances.pipeline import stack
from evonorm_jax.detection.coco_evaluation import evaluate_detections
from evonorm_jax.detection.paste import paste_mask
from evonorm_jax.errors import UserError
from tests.data.instances.coco_folders import SIZES, write_folder

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same folder in memory and read ahead."""
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    root = write_folder(tmp_path_factory.mktemp("coco"))
    fields = {"path": str(root), "image_size": 64, "mask_size": 8, "max_instances": 4}
    return [
        create_instance_pipeline(
            instance_dataset_config("own", "coco_json", in_memory=in_memory, **fields), seed=0
        )
        for in_memory in (True, False)
    ]


def first_device(batch):
    return {name: leaf[0] for name, leaf in batch.items()}


def train_examples(pipeline, step, batch_size=2):
    batches = pipeline.train_batches(start_step=step, batch_size=batch_size, hosts=Hosts())
    keys = jax.random.split(jax.random.key(step), batch_size)
    return pipeline.train_examples(pipeline.resident(), first_device(next(batches)), keys)


def test_a_folder_is_the_same_in_memory_and_read_ahead(folders):
    in_memory, stream = folders
    assert not stream.resident()
    for pipeline in folders:
        assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (3, 3)
        assert pipeline.num_classes == 3
    one, other = (train_examples(pipeline, step=3) for pipeline in folders)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    pairs = zip(*(p.eval_batches(batch_size=2, hosts=Hosts()) for p in folders), strict=True)
    for one, other in pairs:
        jax.tree.map(
            np.testing.assert_array_equal,
            in_memory.eval_examples(in_memory.resident(), first_device(one)),
            stream.eval_examples({}, first_device(other)),
        )
    np.testing.assert_array_equal(in_memory.eval_picture(1), stream.eval_picture(1))


def test_evaluation_has_every_image_once_and_its_scale(folders):
    for pipeline in folders:
        rows = []
        for batch in pipeline.eval_batches(batch_size=2, hosts=Hosts(local_device_count=2)):
            assert batch["mask"].shape == (2, 1)
            for device in range(2):
                share = {name: leaf[device] for name, leaf in batch.items()}
                rows.append(pipeline.eval_examples(pipeline.resident(), share))
        counted = [row for row in rows if row["mask"][0] == 1]
        assert [int(row["index"][0]) for row in counted] == [0, 1, 2]
        for row, (height, width) in zip(counted, SIZES, strict=True):
            scale = 64 / max(height, width)
            assert float(row["scale"][0]) == pytest.approx(scale)
            assert row["valid_size"][0].tolist() == [int(height * scale), int(width * scale)]
            assert not row["image"][0, row["valid_size"][0, 0] :].any()


def test_shares_of_devices_and_hosts_are_the_batch_of_one(folders):
    for pipeline in folders:
        whole = next(pipeline.train_batches(start_step=4, batch_size=2, hosts=Hosts()))
        shares = [
            next(
                pipeline.train_batches(
                    start_step=4, batch_size=2, hosts=Hosts(process_index=i, process_count=2)
                )
            )
            for i in range(2)
        ]
        for name, leaf in whole.items():
            joined = np.concatenate([share[name][0] for share in shares])
            np.testing.assert_array_equal(joined, leaf[0])


@pytest.mark.hostile
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_ends_it_with_one_message(tmp_path, in_memory):
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
    root = write_folder(tmp_path)
    for split in ("train", "val"):
        file = root / split / "1.jpg"
        file.write_bytes(file.read_bytes()[:100])
    config = instance_dataset_config(
        "own", "coco_json", path=str(root), image_size=64, mask_size=8, in_memory=in_memory
    )

    def read(evaluation_only):
        pipeline = create_instance_pipeline(config, seed=0, evaluation_only=evaluation_only)
        if evaluation_only:
            return list(pipeline.eval_batches(batch_size=2, hosts=Hosts()))
        return next(pipeline.train_batches(start_step=0, batch_size=3, hosts=Hosts()))

    for split in ("train", "val"):
        with pytest.raises(UserError, match=rf"{split}/1\.jpg' cannot be decoded .*: replace the"):
            read(evaluation_only=split == "val")


def test_the_nuclei():
    config = instance_dataset_config(
        "nuclei256", "embedded", flip=False, train_split="train[:2]", eval_split="val[:3]"
    )
    pipeline = create_instance_pipeline(config, seed=0)
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (2, 3)
    assert pipeline.class_names == ("background", "nucleus")
    examples = train_examples(pipeline, step=0)
    order = np.random.default_rng((0, 0)).permutation(2)
    for row, index in enumerate(order):
        pixels, labels = read_nuclei("train")[index]
        found = np.asarray(examples["image"][row]) * 17.6 + 12.8
        np.testing.assert_allclose(found, pixels, atol=1e-3)
        assert int((examples["classes"][row] > 0).sum()) == labels.max()
        boxes, masks = np.asarray(examples["boxes"][row]), np.asarray(examples["masks"][row])
        pasted = np.zeros(labels.shape, bool)
        for box, mask in zip(boxes[: labels.max()], masks[: labels.max()], strict=True):
            pasted |= paste_mask(mask.astype(np.float32), box, labels.shape)
        assert (pasted & (labels > 0)).sum() / (pasted | (labels > 0)).sum() > 0.97


def test_the_embedded_set_is_whole():
    counts = {
        split: [int(labels.max()) for _, labels in read_nuclei(split)] for split in ("train", "val")
    }
    assert {split: (len(c), sum(c)) for split, c in counts.items()} == {
        "train": (48, 1243),
        "val": (16, 378),
    }


@pytest.mark.parametrize(
    ("name", "source", "fields", "message"),
    [
        ("nuclei", "embedded", {}, "No data set 'nuclei' is embedded: there is nuclei256"),
        ("nuclei256", "embedded", {"path": "x"}, "the nuclei are part of the package"),
        ("nuclei256", "embedded", {"train_split": "test"}, "splits 'train' and 'val', not 'test'"),
        (
            "nuclei256",
            "embedded",
            {"mask_size": 30},
            "mask_size is 30, but must be a multiple of 8",
        ),
        ("nuclei256", "embedded", {"scale_jitter": (2.0, 1.0)}, "the smallest and the largest fac"),
        (
            "nuclei256",
            "embedded",
            {"max_instances": 0},
            "max_instances is 0, but must be 1",
        ),
        ("nuclei256", "embedded", {"std": (1.0,)}, "std is .*, but must be 3 positive values"),
    ],
)
def test_what_cannot_be_is_refused(name, source, fields, message):
    with pytest.raises(UserError, match=message):
        create_instance_pipeline(instance_dataset_config(name, source, **fields), seed=0)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="Unknown source 'tfds': take one of coco_json"):
        instance_dataset_config("coco2017", "tfds")
    with pytest.raises(UserError, match=r"Unknown field size of config\.dataset\. .*It has path"):
        instance_dataset_config("coco2017", "coco_json", size=3)


def test_perfect_detections_have_the_average_precision_1(tmp_path):
    """From the files to the measure: canvas, scale, boxes, masks, crowds, category ids."""
    pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")

    def keep_whole_boxes(content):
        del content["annotations"][3:5]

    root = write_folder(tmp_path, keep_whole_boxes)
    config = instance_dataset_config(
        "own", "coco_json", path=str(root), image_size=64, mask_size=56, max_instances=4
    )
    folder = list_coco_folder(config)
    examples = stack(
        [make_example(read_pixels(image), image.instances, config) for image in folder.eval.images]
    )
    rows = {
        "index": np.arange(3),
        "scale": examples["scale"],
        "boxes": examples["boxes"],
        "classes": examples["classes"],
        "scores": np.where(examples["classes"] > 0, 0.9, -1.0),
        "masks": np.unpackbits(examples["masks"], axis=-1) * np.uint8(255),
    }
    found = evaluate_detections(folder.eval.truth, rows, category_ids=folder.category_ids)
    assert found["box_ap"] == found["mask_ap"] == found["box_ar1"] == 1.0
    swapped = {**rows, "classes": np.where(rows["classes"] > 0, 3 - rows["classes"], 0)}
    found = evaluate_detections(folder.eval.truth, swapped, category_ids=folder.category_ids)
    assert found["box_ap"] == found["mask_ap"] == 0.0
