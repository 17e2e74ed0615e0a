"""Sizes that follow from the images: by hand, at the ends of the range, and kept."""

import numpy as np
import pytest
from PIL import Image

from configs import finetune_folder, recipes
from evonorm_jax.data.config import check_fields
from evonorm_jax.data.image_sizes import sample_shorter_sides
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import as_json, write_json
from evonorm_jax.training.config import complete
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.fit_to_data import (
    FIELDS,
    fit_image_size,
    fit_to_data,
    fits_to_data,
    prepare,
)
from evonorm_jax.training.run_directory import check_owner


def fit(num_images, num_devices=1, **fields):
    config = finetune_folder.get_config()
    config.update_from_flattened_dict({"dataset.image_size": 224, **fields})
    return fit_to_data(config, num_images, num_devices)


def fit_size(path, **fields):
    config = finetune_folder.get_config()
    config.update_from_flattened_dict({"dataset.path": str(path), **fields})
    return fit_image_size(config)


def write_photos(root, *sizes):
    """Writes a flat folder of two classes with images of these sizes (width, height) each."""
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.new("L", size).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_steps", "warmup_steps", "eval_every_steps"),
    [
        # From weights: 500 steps at least, 20 epochs between, 10,000 at most.
        (5, 4, 500, 50, 25),
        (8, 8, 500, 50, 25),
        (40, 8, 500, 50, 25),  # 20 evaluations
        (300, 32, 500, 50, 27),  # after whole epochs of 9 steps
        (5_000, 64, 1_560, 156, 78),
        (100_000, 64, 10_000, 500, 1_562),
    ],
)
def test_sizes_by_hand(num_images, batch_size, num_steps, warmup_steps, eval_every_steps):
    config, notes = fit(num_images, init_from="weights")
    assert config.num_workers * config.images_per_worker == batch_size
    durations = resolve_durations(config, num_images // batch_size)
    assert durations.num_steps == num_steps
    assert durations.warmup_steps == warmup_steps
    assert durations.eval_every_steps == eval_every_steps
    assert not fits_to_data(config)
    assert len(notes) == 1
    assert f"Chosen to fit {num_images:,} training images: images_per_worker=" in notes[0]


@pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
@pytest.mark.parametrize("num_images", [8, 10, 17, 100, 100_000])
def test_every_device_has_images(num_images, num_devices):
    batch_size = fit(num_images, num_devices)[0].images_per_worker
    assert batch_size % num_devices == 0
    assert 0 < batch_size <= num_images
    assert batch_size <= 64


def test_workers_and_devices_share_the_batch():
    config, _ = fit(100_000, num_devices=2, num_workers=4)
    assert (config.num_workers, config.images_per_worker) == (4, 16)


def test_a_larger_image_makes_a_smaller_batch():
    sizes = (64, 224, 448, 1024)
    batches = [fit(10_000, **{"dataset.image_size": s})[0].images_per_worker for s in sizes]
    assert batches == [64, 64, 16, 8]


def test_rates_from_weights_and_from_scratch():
    tuned, (note,) = fit(1_000, init_from="weights")
    assert tuned.optimizer.learning_rate == 0.003
    assert tuned.optimizer.rate_multipliers == ("head=10",)
    assert "optimizer.learning_rate=0.003, optimizer.rate_multipliers=('head=10',)." in note
    scratch, notes = fit(1_000)
    assert scratch.optimizer.learning_rate == 0.1 * 64 / 256
    assert scratch.optimizer.rate_multipliers == ()
    assert scratch.num_steps == 1_350  # 90 epochs of 15 steps
    assert notes[1].startswith("No weights are named (config.init_from is empty): training from")
    assert "for which 1,000 images are few" in notes[1]
    assert fit(60_000)[1][1].endswith("training from scratch.")
    adam = fit(1_000, init_from="weights", **{"optimizer.name": "adamw"})[0].optimizer
    assert adam.learning_rate == 1e-4


def test_what_a_person_sets_stays():
    own = {"images_per_worker": 5, "num_epochs": 3.0, "schedule.warmup_epochs": 0.0}
    own |= {"eval_every_epochs": 0.0, "optimizer.learning_rate_per_256": 0.2}
    own |= {"optimizer.rate_multipliers": ("head=2",)}
    config, notes = fit(100, init_from="weights", **own)
    for name, value in own.items():
        section, _, field = name.rpartition(".")
        assert (config[section] if section else config)[field] == value
    assert (config.num_steps, config.optimizer.learning_rate) == (0, 0.0)
    assert "num_steps=0, optimizer.learning_rate=0.0." in notes[0]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="8 devices, but only 5 training images"):
        fit(5, num_devices=8)
    with pytest.raises(UserError, match="chooses a rate for sgd, adam, adamw, not for 'lars'"):
        fit(100, **{"optimizer.name": "lars"})


def test_a_run_keeps_what_was_chosen_for_it(tmp_path):
    config = complete(finetune_folder.get_config())
    config.dataset.path, config.init_from = str(tmp_path / "photos"), "weights"
    write_photos(tmp_path / "photos", *3 * [(200, 170)])
    fitted, (note,) = fit_image_size(prepare(config, tmp_path))
    assert "dataset.image_size=160, a multiple of 32 pixels" in note
    fitted, _ = fit_to_data(fitted, 40, 1)
    assert fitted.dataset.name == "photos"
    write_json(tmp_path / "config.json", as_json(fitted.to_dict()))
    write_photos(tmp_path / "photos" / "more", *9 * [(64, 64)])  # looked at no more
    again = prepare(config, tmp_path)
    assert (again.dataset.image_size, again.dataset.resize_size) == (160, 183)
    assert fit_image_size(again) == (again, [])
    assert as_json(again.to_dict()) == as_json(fitted.to_dict())
    assert not fits_to_data(again)
    check_owner(tmp_path, config)  # as a sweep asks, which prepares nothing
    config.images_per_worker = 4  # said aloud, so it is no choice of ours
    config.dataset.image_size = 128
    own = prepare(config, tmp_path)
    assert (own.images_per_worker, own.dataset.image_size, own.dataset.resize_size) == (4, 128, 146)
    with pytest.raises(UserError, match="image_size: 160 there, 128 here"):
        check_owner(tmp_path, config)
    config.dataset.image_size = -1
    with pytest.raises(UserError, match="images_per_worker: 8 there, 4 here"):
        check_owner(tmp_path, config)


def test_other_configs_leave_nothing_to_the_data():
    config = recipes.base_config()
    assert not fits_to_data(config)
    for name in FIELDS:
        one = recipes.base_config()
        one.update_from_flattened_dict({name: -1})
        assert fits_to_data(one)


@pytest.mark.parametrize(
    ("sizes", "model", "init_from", "image_size", "resize_size", "why"),
    [
        # Two of three are for training whichever is drawn for evaluation.
        ([(640, 480)] * 3, "resnet50", "", 224, 256, "for which resnet50 was made: 4 images"),
        ([(224, 300)] * 3, "resnet50", "", 224, 256, "median shorter side of 224 pixels."),
        ([(223, 300)] * 3, "resnet50", "", 192, 219, "at most the 224 for which resnet50 was"),
        ([(640, 480)] * 3, "efficientnet_b5", "", 456, 521, "for which efficientnet_b5 was made"),
        ([(455, 455)] * 3, "efficientnet_b5", "", 448, 512, "a multiple of 32 pixels"),
        ([(100, 20)] * 3, "resnet50", "", 32, 37, "median shorter side of 20 pixels"),
        ([(640, 480)] * 3, "cifar_resnet20", "", 32, 37, "for which cifar_resnet20 was made"),
        ([(64, 64)] * 3, "resnet50", "", 64, 73, "a multiple of 32 pixels"),
        # From weights smaller images are enlarged, up to what the network was made for.
        ([(64, 64)] * 3, "resnet50", "weights", 128, 146, "enlarged from weights: 4 images"),
        ([(170, 170)] * 3, "resnet50", "weights", 160, 183, "a multiple of 32 pixels"),
        ([(20, 20)] * 3, "cifar_resnet20", "weights", 32, 37, "a multiple of 32 pixels"),
    ],
)
def test_size_of_images_by_hand(tmp_path, sizes, model, init_from, image_size, resize_size, why):
    fields = {"model.name": model, "init_from": init_from}
    config, (note,) = fit_size(write_photos(tmp_path, *sizes), **fields)
    assert (config.dataset.image_size, config.dataset.resize_size) == (image_size, resize_size)
    assert note.startswith(f"Chosen: dataset.image_size={image_size}, ")
    assert why in note


def test_half_of_the_images_reach_their_size(tmp_path):
    sizes = [(300, 64)] * 2 + [(128, 300)] * 3
    write_photos(tmp_path / "train", *sizes)
    write_photos(tmp_path / "val", *sizes)
    assert fit_size(tmp_path)[0].dataset.image_size == 128
    assert fit_size(tmp_path, **{"dataset.train_split": "train[:40%]"})[0].dataset.image_size == 64


def test_a_size_that_a_person_sets_stays(tmp_path):
    config, notes = fit_size(tmp_path, **{"dataset.image_size": 96})  # looks for no image
    assert (config.dataset.image_size, config.dataset.resize_size, notes) == (96, 110, [])
    photos = write_photos(tmp_path / "photos", *3 * [(64, 64)])
    config, _ = fit_size(photos, **{"dataset.resize_size": 64})
    assert (config.dataset.image_size, config.dataset.resize_size) == (64, 64)


def test_arrays_have_their_size_already(tmp_path):
    path = tmp_path / "small.npz"
    np.savez(path, x_train=np.zeros((2, 28, 28), np.uint8))
    config, (note,) = fit_size(path, **{"dataset.source": "npz"})
    assert config.dataset.image_size == 28
    assert f"that of the images in '{path}'" in note
    config, (note,) = fit_size("", **{"dataset.source": "tfds"})
    assert config.dataset.image_size == 224
    assert "the sizes of the images are not known" in note


def test_files_without_a_header_are_left_out_of_the_sample(tmp_path):
    photos = write_photos(tmp_path, *3 * [(64, 100)])
    (photos / "ant" / "0.png").write_bytes(b"no image")
    config = finetune_folder.get_config().dataset
    config.path, config.train_split, config.eval_split = str(photos), "all", "all"
    assert sample_shorter_sides(config) == [64] * 5
    some = sample_shorter_sides(config, number=3)
    assert 2 <= len(some) <= 3
    assert some == sample_shorter_sides(config, number=3)


def test_only_classifiers_leave_the_size_to_the_data():
    config = recipes.base_config()
    config.task = "image_synthesis"
    config.update_from_flattened_dict({"dataset": {"image_size": -1}})
    assert fit_image_size(config) == (config, [])
    with pytest.raises(UserError, match="image_size is -1, but must be a positive number"):
        check_fields(finetune_folder.get_config().dataset)
    check_fields(finetune_folder.get_config().dataset, may_fit_to_data=True)
