import logging
import os
import types

import numpy as np
import pytest
from PIL import Image

from evonorm_jax import display
from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.data.folder import list_class_folder
from evonorm_jax.data.pillow_images import read_image
from evonorm_jax.errors import UserError
from tests.data.conftest import smooth_image, write_folder


def folder_config(root, **overrides):
    small = {"path": str(root), "in_memory": True, "image_size": 16, "resize_size": 18}
    return dataset_config("own", "folder", **small | overrides)


def read(path, size=8, resize=8, channels=3):
    return read_image(str(path), size=size, resize=resize, channels=channels)


def test_listing(image_folder):
    folder = list_class_folder(folder_config(image_folder))
    assert folder.class_names == ("ant", "bee", "cat")
    assert np.bincount(folder.train.labels).tolist() == [7, 6, 4]
    assert np.bincount(folder.eval.labels).tolist() == [3, 4, 4]
    # The first image of each class, then the second of each, ...
    assert [path[-11:] for path in folder.train.paths[:4]] == [
        "ant/000.jpg",
        "bee/000.jpg",
        "cat/000.jpg",
        "ant/001.jpg",
    ]
    for path, label in zip(folder.train.paths, folder.train.labels, strict=True):
        assert f"/train/{folder.class_names[label]}/" in path


def test_parts_of_a_split_are_disjoint_and_hold_every_class(image_folder):
    config = folder_config(image_folder, train_split="train[:70%]", eval_split="train[70%:]")
    folder = list_class_folder(config)
    assert len(set(folder.train.paths) | set(folder.eval.paths)) == 17
    assert not set(folder.train.paths) & set(folder.eval.paths)
    assert set(folder.train.labels) == {0, 1, 2}


def test_other_files_are_ignored(tmp_path):
    write_folder(tmp_path, {"train": (2, 2), "val": (1, 1)})
    (tmp_path / "train" / "readme.txt").write_text("x")
    (tmp_path / "train" / "ant" / "Thumbs.db").write_text("x")
    (tmp_path / "train" / "ant" / "._000.jpg").write_text("x")
    assert len(list_class_folder(folder_config(tmp_path)).train.paths) == 4


@pytest.fixture
def flat_folder(tmp_path):
    """Empty files, since listing opens none: 10 of ant, 5 of bee, 2 of cat, without splits."""
    for class_name, number in (("ant", 10), ("bee", 5), ("cat", 2)):
        (tmp_path / class_name).mkdir()
        for index in range(number):
            (tmp_path / class_name / f"{index}.jpg").touch()
    return tmp_path


def names_of(split):
    return sorted(os.path.join(*path.split(os.sep)[-2:]) for path in split.paths)


def test_a_flat_folder_is_split_within_each_class(flat_folder, caplog):
    caplog.set_level(logging.INFO, "evonorm_jax")
    folder = list_class_folder(folder_config(flat_folder))
    assert folder.class_names == ("ant", "bee", "cat")
    assert np.bincount(folder.train.labels).tolist() == [8, 4, 1]
    assert np.bincount(folder.eval.labels).tolist() == [2, 1, 1]
    everything = sorted(f"{path.parent.name}/{path.name}" for path in flat_folder.glob("*/*"))
    assert sorted(names_of(folder.train) + names_of(folder.eval)) == everything
    for split in (folder.train, folder.eval):
        for path, label in zip(split.paths, split.labels, strict=True):
            assert f"/{folder.class_names[label]}/" in path
    assert caplog.messages == [
        f"{flat_folder} has 3 class folders and no 'train' and 'val': 13 images are for training"
        " and 4 for evaluation, drawn by config.dataset.eval_fraction=0.2 of each class and"
        " split_seed=0."
    ]


def test_the_split_of_a_flat_folder_is_its_seeds(flat_folder, tmp_path_factory):
    drawn = names_of(list_class_folder(folder_config(flat_folder)).eval)
    assert drawn == names_of(list_class_folder(folder_config(flat_folder)).eval)
    others = [
        names_of(list_class_folder(folder_config(flat_folder, split_seed=seed)).eval)
        for seed in range(1, 5)
    ]
    assert any(other != drawn for other in others)
    half = list_class_folder(folder_config(flat_folder, eval_fraction=0.5))
    assert np.bincount(half.eval.labels).tolist() == [5, 2, 1]  # round(2.5) is 2
    moved = flat_folder.rename(tmp_path_factory.mktemp("moved") / "photos")
    assert names_of(list_class_folder(folder_config(moved)).eval) == drawn
    (moved / "bee" / "new.jpg").touch()
    longer = names_of(list_class_folder(folder_config(moved)).eval)
    assert [name for name in longer if "bee" not in name] == [
        name for name in drawn if "bee" not in name
    ]


def test_evaluation_only_takes_the_same_split_of_a_flat_folder(flat_folder):
    whole = list_class_folder(folder_config(flat_folder))
    part = list_class_folder(folder_config(flat_folder), evaluation_only=True)
    assert part.train.paths == []
    assert part.eval.paths == whole.eval.paths


def test_parts_of_a_flat_folder(flat_folder, caplog):
    small = list_class_folder(folder_config(flat_folder, train_split="train[:5]"))
    assert len(small.train.paths) == 5
    caplog.set_level(logging.INFO, "evonorm_jax")
    own = folder_config(flat_folder, train_split="all[:60%]", eval_split="all[60%:]")
    folder = list_class_folder(own)
    assert (len(folder.train.paths), len(folder.eval.paths)) == (10, 7)
    assert not set(folder.train.paths) & set(folder.eval.paths)
    assert "by config.dataset.train_split='all[:60%]' and eval_split='all[60%:]'" in caplog.text


def test_a_class_may_be_called_train(flat_folder):
    (flat_folder / "bee").rename(flat_folder / "train")
    assert list_class_folder(folder_config(flat_folder)).class_names == ("ant", "cat", "train")


def test_what_is_left_out_is_said_once(flat_folder, caplog):
    for name in (".ipynb_checkpoints", "@eaDir", "bee/@eaDir", "ant/raw/2019"):
        (flat_folder / name).mkdir(parents=True)
    for name in (".ipynb_checkpoints/1.jpg", "ant/raw/2019/1.jpg", "ant/raw/b.heic"):
        (flat_folder / name).touch()
    for name in ("bee/scan.TIF", "bee/a.heic", "bee/old.jfif", "bee/notes.txt", "loose.png"):
        (flat_folder / name).touch()
    caplog.set_level(logging.INFO, "evonorm_jax")
    folder = list_class_folder(folder_config(flat_folder))
    assert folder.class_names == ("ant", "bee", "cat")
    assert "bee/old.jfif" in names_of(folder.train) + names_of(folder.eval)
    assert len(folder.train.paths) + len(folder.eval.paths) == 18
    hidden, nested, loose, unread = caplog.messages[1:]
    folders = [str(flat_folder / name) for name in (".ipynb_checkpoints", "@eaDir", "bee/@eaDir")]
    assert hidden == f"Hidden folders are no classes and left out: {', '.join(folders)}."
    assert nested.startswith(
        f"2 images in subfolders of a class left out, the first '{flat_folder}/ant/raw/b.heic'"
    )
    assert loose.startswith(f"1 image beside the class folders left out, the first '{flat_folder}")
    assert unread.startswith("2 images left out, because their format is not read (.heic: 1, .tif")


def test_folders_that_cannot_be_split(flat_folder):
    (flat_folder / "dog" / "raw").mkdir(parents=True)
    for name in ("1.heic", "2.heic", "raw/3.jpg"):
        (flat_folder / "dog" / name).touch()
    with pytest.raises(
        UserError, match=r"has 1 in subfolders; it has 2 images with \.heic: 2\. Put"
    ):
        list_class_folder(folder_config(flat_folder))
    with pytest.raises(UserError, match=r"ant' holds images, but no folders: config.dataset.path"):
        list_class_folder(folder_config(flat_folder / "ant"))
    (flat_folder / "dog" / "4.jpg").touch()
    with pytest.raises(UserError, match=r"dog' holds 1 image, but .* each need one: add"):
        list_class_folder(folder_config(flat_folder))
    inner = flat_folder / "photos"
    for class_name in ("ant", "bee"):
        (inner / class_name).mkdir(parents=True)
    (flat_folder / "all").mkdir()
    inner.rename(flat_folder / "all" / "photos")
    with pytest.raises(UserError, match=r"has 1 class folder, .* Is '.*/all/photos' the one to"):
        list_class_folder(folder_config(flat_folder, train_split="all"))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_the_evaluation_fraction_is_a_share(flat_folder, value):
    with pytest.raises(UserError, match=r"eval_fraction is .* above 0, below 1"):
        create_pipeline(folder_config(flat_folder, eval_fraction=value), seed=0)


def test_in_memory(image_folder):
    pipeline = create_pipeline(folder_config(image_folder, num_train_examples=17), seed=0)
    images = pipeline.resident()["train_images"]
    assert (images.shape, images.dtype) == ((17, 16, 16, 3), np.uint8)
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("ant", "bee", "cat"))
    folder = list_class_folder(folder_config(image_folder))
    np.testing.assert_array_equal(images[5], read(folder.train.paths[5], 16, 18))
    np.testing.assert_array_equal(pipeline.resident()["train_labels"], folder.train.labels)


def test_reading_says_how_far_it_is(image_folder, monkeypatch, caplog):
    times = iter([0.0, *[1.0] * 9, 2.5, *[3.0] * 9, *[12.5] * 99])
    monkeypatch.setattr(display, "time", types.SimpleNamespace(monotonic=times.__next__))
    caplog.set_level(logging.INFO, "evonorm_jax")
    create_pipeline(folder_config(image_folder), seed=0)
    what = f"Reading images of {image_folder} into memory"
    assert caplog.messages == [f"{what}: 10 of 28", f"{what}: 20 of 28"]


def test_evaluation_only(image_folder, tmp_path):
    (tmp_path / "val").symlink_to(image_folder / "val")
    config = folder_config(tmp_path, num_train_examples=17)
    pipeline = create_pipeline(config, seed=0, evaluation_only=True)
    assert (pipeline.num_train_examples, pipeline.num_eval_examples) == (0, 11)
    assert (pipeline.num_classes, pipeline.class_names) == (3, ("ant", "bee", "cat"))
    assert set(pipeline.resident()) == {"eval_images", "eval_labels"}
    whole = create_pipeline(folder_config(image_folder), seed=0).resident()
    for name, leaf in pipeline.resident().items():
        np.testing.assert_array_equal(leaf, whole[name])
    with pytest.raises(UserError, match=r"no split 'train' .* which has val"):
        create_pipeline(config, seed=0)
    with pytest.raises(UserError, match=r"no split 'test' .*set config\.dataset\.eval_split to"):
        create_pipeline(folder_config(tmp_path, eval_split="test"), seed=0, evaluation_only=True)
    with pytest.raises(UserError, match="holds <class>/<image>, or val/<class>/<image>"):
        create_pipeline(folder_config("/does/not/exist"), seed=0, evaluation_only=True)


def test_grey_by_one_mean(image_folder):
    pipeline = create_pipeline(folder_config(image_folder, mean=(0.0,), std=(1.0,)), seed=0)
    assert pipeline.image_shape == (16, 16, 1)


def test_an_image_of_the_right_size_is_not_touched(tmp_path):
    pixels = smooth_image(1, 8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), pixels)


def test_centre_crop_and_resize(tmp_path):
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[5:25, 20:40] = (200, 100, 50)  # the centre square of 20
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # 30 pixels become 12, so the centre 8 show the centre 20: that one colour. The filter reads
    # two pixels of the result further, so the border shows some black.
    crop = read(tmp_path / "a.png", size=8, resize=12)
    np.testing.assert_array_equal(crop[2:-2, 2:-2], np.broadcast_to((200, 100, 50), (4, 4, 3)))


def test_resizing_by_area_is_the_mean_of_pixels(tmp_path):
    pixels = smooth_image(0, 32, 48)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shrunk = read_image(
        str(tmp_path / "a.png"), size=16, resize=16, channels=3, resize_method="area"
    )
    blocks = pixels[:, 8:40].astype(np.float64).reshape(16, 2, 16, 2, 3)
    np.testing.assert_allclose(shrunk, blocks.mean((1, 3)), atol=1)


@pytest.mark.parametrize(
    ("mode", "name", "color", "expected"),
    [
        ("L", "a.jpg", 77, (77, 77, 77)),
        ("CMYK", "a.jpg", (0, 255, 255, 0), (255, 0, 0)),
        ("1", "a.png", 1, (255, 255, 255)),
        ("LA", "a.png", (50, 0), (50, 50, 50)),
        ("RGBA", "a.png", (9, 8, 7, 128), (9, 8, 7)),
        ("I;16", "a.png", 0x8040, (128, 128, 128)),
        ("P", "a.gif", 3, None),
        ("RGB", "a.bmp", (1, 2, 3), (1, 2, 3)),
        ("RGB", "a.webp", (60, 60, 60), (60, 60, 60)),
    ],
)
def test_colour_spaces_become_rgb(tmp_path, mode, name, color, expected):
    image = Image.new(mode, (8, 8), color)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 90, 20)])
        expected = (3, 90, 20)
    image.save(tmp_path / name)
    pixels = read(tmp_path / name)
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # the loss of JPEG and WebP


def test_palette_with_transparency_gives_no_warning(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0, 0], (10, 20, 30))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 500)])
def test_extreme_shapes(tmp_path, shape):
    Image.new("RGB", shape, (10, 20, 30)).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, np.broadcast_to((10, 20, 30), (8, 8, 3)))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_broken_image_is_named(tmp_path, damage):
    write_folder(tmp_path, {"train": (3, 3), "val": (1, 1)})
    victim = tmp_path / "train" / "bee" / "001.jpg"
    contents = {"truncated": victim.read_bytes()[:300], "text": b"hello", "empty": b""}
    victim.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"train/bee/001\.jpg' cannot be decoded"):
        create_pipeline(folder_config(tmp_path), seed=0)


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match=r"No folder is named: config\.dataset\.path must"):
        list_class_folder(folder_config(""))
    with pytest.raises(UserError, match="There is no folder '/does/not/exist'"):
        list_class_folder(folder_config("/does/not/exist"))
    with pytest.raises(UserError, match=r"' holds no folders: config\.dataset\.path must name"):
        list_class_folder(folder_config(tmp_path))
    (notes := tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"notes\.txt' is a file: config\.dataset\.path must name"):
        list_class_folder(folder_config(notes))
    for name in ("ant", "bee"):
        (tmp_path / "plain" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"^ant, bee of '.*plain' hold no images: .* endings \.bmp"):
        list_class_folder(folder_config(tmp_path / "plain"))
    write_folder(tmp_path, {"train": (2, 2), "val": (2, 2)})
    with pytest.raises(UserError, match=r"no split 'test' .* has plain, train, val"):
        list_class_folder(folder_config(tmp_path, eval_split="test"))
    write_folder(tmp_path, {"one": (2,)})
    with pytest.raises(UserError, match="has 1 class folder, but"):
        list_class_folder(folder_config(tmp_path, train_split="one"))
    write_folder(tmp_path, {"other": (1, 1, 1)})
    with pytest.raises(UserError, match=r"different classes: cat stand .* Add their images"):
        list_class_folder(folder_config(tmp_path, eval_split="other"))
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="train/empty' holds no image"):
        list_class_folder(folder_config(tmp_path))
