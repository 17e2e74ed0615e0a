"""COCO folders: what is read, what is left out and said, and one message for each mistake."""

import copy
import logging

import numpy as np
import pytest
from PIL import Image

from evonorm_jax.data.instances import instance_dataset_config
from evonorm_jax.data.instances.coco_json import list_coco_folder, read_pixels
from evonorm_jax.detection.coco_masks import decode_mask, encode_mask
from evonorm_jax.errors import UserError
from tests.data.instances.coco_folders import SIZES, annotation, content, write_folder

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")


def config(root, **fields):
    fields = {"image_size": 64, "mask_size": 8, "max_instances": 4} | fields
    return instance_dataset_config("own", "coco_json", path=str(root), **fields)


def test_objects_come_to_their_images(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = list_coco_folder(config(write_folder(tmp_path)))
    assert folder.category_ids == (3, 7)
    assert folder.class_names == ("background", "dog", "cup")
    instances = [image.instances for image in folder.train.images]
    assert [len(objects) for objects in instances] == [1, 1, 0]
    assert instances[0][0][:3] == ((5, 10, 35, 30), 2, 600)
    assert np.argwhere(instances[0][0].mask()).tolist() == [
        [row, column] for row in range(5, 35) for column in range(10, 30)
    ]
    (said,) = [message for message in caplog.messages if "training leaves out" in message]
    assert said.endswith("1 boxes outside of their image, 1 crowds, 1 empty boxes.")
    assert "instances_train.json" in said


def test_the_truth_keeps_everything(tmp_path):
    folder = list_coco_folder(config(write_folder(tmp_path)), evaluation_only=True)
    assert folder.train is None
    assert folder.eval.truth == content()


def test_a_class_may_be_a_category_id(tmp_path):
    folder = list_coco_folder(config(write_folder(tmp_path), keep_category_ids=True))
    assert folder.category_ids == tuple(range(1, 8))
    assert folder.class_names[3] == "dog"
    assert folder.class_names[4] == ""
    assert folder.train.images[0].instances[0].label == 7


def test_a_part_of_a_split(tmp_path):
    folder = list_coco_folder(config(write_folder(tmp_path), eval_split="val[1:]"))
    assert [image["id"] for image in folder.eval.truth["images"]] == [11, 22]
    assert [record["id"] for record in folder.eval.truth["annotations"]] == [5, 8]
    assert len(folder.train.images) == 3


def change_annotation(**fields):
    return lambda written: written["annotations"][0].update(fields)


def drop(key):
    return lambda written: written["annotations"][0].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"instances_train\.json has no list of images"),
        (lambda c: c["images"].clear(), r"instances_train\.json has no images: the list is empty"),
        (lambda c: c["categories"].clear(), r"has no categories: the list is empty"),
        (lambda c: c["images"].append(c["images"][1]), r"1 ids of images .* the first is 11\."),
        (
            lambda c: c["annotations"].append(copy.deepcopy(c["annotations"][1])),
            r"1 ids of annotations occur more than once, the first is 5",
        ),
        (change_annotation(category_id=4), r"annotation 0 has the category_id 4, which no categ"),
        (change_annotation(image_id=12), r"annotation 0 has the image_id 12, which no image has"),
        (change_annotation(bbox=[1, 2, 3]), r"annotation 0 has the bbox \[1, 2, 3\]; expected"),
        (change_annotation(bbox=[1, 2, float("nan"), 3]), r"annotation 0 has the bbox .*nan"),
        (change_annotation(area="large"), r"annotation 0 has the area 'large'"),
        (drop("segmentation"), r"annotation 0 has no segmentation: instance segmentation needs"),
        (change_annotation(segmentation=[[1, 2, 3, 4]]), r"annotation 0: a polygon must be"),
        (change_annotation(segmentation=[]), r"annotation 0: segmentation must be polygons or"),
        (
            change_annotation(segmentation={"size": [60, 40], "counts": [2400]}),
            r"annotation 0: run lengths of a mask of \[60, 40\] in an image of \[40, 60\]",
        ),
        (lambda c: c["images"][0].pop("height"), r"images, 0: height is None; expected int"),
        (lambda c: c["images"][0].update(height=0), r"image 0 has the size \[0, 60\]"),
        (lambda c: c["images"][2].update(file_name="x.jpg"), r"1 images of 3 that are not there"),
        (lambda c: c["images"][2].update(file_name="x" * 300), r"1 images of 3 that are not there"),
        (lambda c: c["categories"][0].update(id=-1), r"category id -1 is negative"),
        (
            lambda c: c["images"][0].update(height=2**40),
            r"size \[1099511627776, 60\]: expected 1 to",
        ),
    ],
)
def test_a_mistake_is_one_message_with_file_and_id(tmp_path, change, message):
    root = write_folder(tmp_path, change)
    with pytest.raises(UserError, match=message) as raised:
        list_coco_folder(config(root))
    assert str(root) in str(raised.value)


HEIGHT, WIDTH = SIZES[0]
HUGE = 10**400


def runs(counts, size=(HEIGHT, WIDTH)):
    return change_annotation(segmentation={"size": size, "counts": counts})


def polygon(*numbers):
    return change_annotation(segmentation=[list(numbers)])


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_annotation(image_id=[1]), r"image_id \[1\], which no image has"),
        (change_annotation(image_id={}), r"image_id \{\}, which no image has"),
        (change_annotation(image_id=0.0), r"image_id 0\.0, which no image has"),
        (change_annotation(category_id=[7]), r"category_id \[7\], which no category has"),
        (change_annotation(bbox=[0, 0, HUGE, 5]), "has the bbox .*expected"),
        (change_annotation(bbox=[0, 0, 1e308, 5]), "has the bbox .*expected"),
        (change_annotation(area=HUGE), "has the area .*expected a number"),
        (change_annotation(area=-5), "has the area -5; expected"),
        (change_annotation(iscrowd="no"), "iscrowd 'no'; expected 0 or 1"),
        (change_annotation(iscrowd=[1]), "iscrowd .*expected 0 or 1"),
        (change_annotation(id=HUGE), r"expected less than 2\*\*63"),
        (runs([1], 5), "run lengths of a mask of 5 in an image"),
        (runs([1], None), "run lengths of a mask of None in an image"),
        (runs(None), "run lengths None: expected a list or a text"),
        (runs(5), "run lengths 5: expected a list or a text"),
        (runs(["a"]), "expected whole numbers from 0"),
        (runs([]), "expected whole numbers from 0"),
        (runs([-5, HEIGHT * WIDTH + 5]), "expected whole numbers from 0"),
        (runs([0.5, HEIGHT * WIDTH - 0.5]), "expected whole numbers from 0"),
        (runs([HUGE]), "run lengths of .* pixels for an image of 2400"),
        (polygon(*"abcdef"), "must have numbers from -60 to 120 alone"),
        (polygon(*[None] * 6), "must have numbers from"),
        (polygon(*[float("nan")] * 6), "must have numbers from"),
        (polygon(0, 0, float("nan"), 0, 9, 9), "must have numbers from"),
        (polygon(0, 0, 1e999, 0, 9, 9), "must have numbers from"),
        (polygon(0, 0, HUGE, 0, 9, 9), "must have numbers from"),
        # The library allocated for each pixel of the way to there.
        (polygon(0, 0, 10**9, 0, 10**9, 10**9), "must have numbers from"),
        (polygon(-61, 0, 5, 0, 9, 9), "must have numbers from"),
        (lambda c: c["categories"][0].update(name="\ud800"), "name '.*', which is no text"),
    ],
)
def test_what_crashed_is_one_short_message(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as raised:
        list_coco_folder(config(write_folder(tmp_path, change)))
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value)) < 400


def test_more_objects_than_training_takes_are_said(tmp_path, caplog):
    def a_second_object(written):
        written["annotations"].append(annotation(9, 0, 3, (0, 0, 5, 5)))

    folder = list_coco_folder(config(write_folder(tmp_path, a_second_object), max_instances=1))
    assert len(folder.train.images[0].instances) == 2
    assert "'own': 1 images have more than 1 objects; their smallest 1 are not" in caplog.text


def test_an_evaluation_split_needs_an_object(tmp_path):
    root = write_folder(tmp_path, lambda c: c["annotations"].clear())
    with pytest.raises(UserError, match="hold no object that is no crowd"):
        list_coco_folder(config(root))


def test_the_splits_have_the_same_categories(tmp_path):
    write_folder(tmp_path, splits=("train",))
    write_folder(tmp_path, lambda c: c["categories"].append({"id": 9, "name": "owl"}), ("val",))
    with pytest.raises(UserError, match=r"different categories: 9 \(owl\)"):
        list_coco_folder(config(tmp_path))


def test_missing_files(tmp_path):
    for name in ("none", "x" * 300 + "none"):
        with pytest.raises(
            UserError, match=r"There is no folder '.*none'.*instances_train\.json and"
        ):
            list_coco_folder(config(tmp_path / name))
    with pytest.raises(UserError, match=r"no file .*instances_train\.json; its folder has no JSON"):
        list_coco_folder(config(tmp_path))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text("{")
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(UserError, match=r"instances_train\.json is no JSON file"):
        list_coco_folder(config(tmp_path))
    (tmp_path / "annotations" / "instances_train.json").write_text("[" * 200_000)
    with pytest.raises(
        UserError, match=r"instances_train\.json is no JSON file, or nested too deep"
    ):
        list_coco_folder(config(tmp_path))


@pytest.mark.hostile
def test_a_category_id_makes_no_billion_classes(tmp_path):
    root = write_folder(tmp_path)
    for file in root.glob("annotations/*.json"):
        file.write_text(file.read_text().replace('"id": 7', '"id": 2000000000'))
        file.write_text(file.read_text().replace('"category_id": 7', '"category_id": 2000000000'))
    assert list_coco_folder(config(root)).category_ids == (3, 2000000000)
    with pytest.raises(UserError, match=r"ids up to 2000000000, .* \(at most 200 here\)"):
        list_coco_folder(config(root, keep_category_ids=True))


def test_damaged_images(tmp_path):
    folder = list_coco_folder(config(write_folder(tmp_path)))
    image = folder.train.images[0]
    image.path.write_bytes(image.path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train/0\.jpg' cannot be decoded"):
        read_pixels(image)
    (tmp_path / "train" / "0.jpg").write_bytes((tmp_path / "train" / "1.jpg").read_bytes())
    with pytest.raises(UserError, match=r"has 64 x 32 pixels .* its JSON says 40 x 60"):
        read_pixels(image)


def test_photographs_are_turned_upright(tmp_path):
    image = list_coco_folder(config(write_folder(tmp_path))).train.images[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((60, 40, 3), np.uint8)).save(image.path, exif=exif)
    assert read_pixels(image).shape == (40, 60, 3)
    with pytest.raises(UserError, match="turned as its EXIF says: exif_orientation=True"):
        read_pixels(image, upright=False)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(image.path, exif=exif)
    assert read_pixels(image, upright=False).shape == (40, 60, 3)
    with pytest.raises(UserError, match="as it is stored: exif_orientation=False"):
        read_pixels(image)


def test_masks_of_every_form_are_the_same():
    mask = np.zeros((12, 9), bool)
    mask[2:7, 3:8] = True
    runs, pixels = [0], mask.ravel(order="F")
    for last, pixel in zip([False, *pixels], pixels, strict=False):
        if pixel != last:
            runs.append(0)
        runs[-1] += 1
    forms = [
        encode_mask(mask),
        {"size": [12, 9], "counts": runs},
        annotation(1, 1, 1, (3, 2, 5, 5))["segmentation"],
    ]
    for form in forms:
        np.testing.assert_array_equal(decode_mask(form, mask.shape), mask)
    for counts in ("garbage!!", "", "~~~~~"):
        with pytest.raises(UserError, match="run lengths that cannot be decoded"):
            decode_mask({"size": [12, 9], "counts": counts}, mask.shape)
    with pytest.raises(UserError, match="run lengths of 107 pixels for an image of 108"):
        decode_mask({"size": [12, 9], "counts": [100, 7]}, mask.shape)
