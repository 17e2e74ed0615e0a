"""Sizes that follow from the number of images: by hand, at the ends of the range, and kept."""

import pytest

from configs import finetune_folder, recipes
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import as_json, write_json
from evonorm_jax.training.config import complete
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.fit_to_data import FIELDS, fit_to_data, fits_to_data, prepare


def fit(num_images, num_devices=1, **fields):
    config = finetune_folder.get_config()
    config.update_from_flattened_dict(fields)
    return fit_to_data(config, num_images, num_devices)


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
    fitted, _ = fit_to_data(prepare(config, tmp_path), 40, 1)
    assert fitted.dataset.name == "photos"
    write_json(tmp_path / "config.json", as_json(fitted.to_dict()))
    again = prepare(config, tmp_path)
    assert as_json(again.to_dict()) == as_json(fitted.to_dict())
    assert not fits_to_data(again)
    config.images_per_worker = 4  # said aloud, so it is no choice of ours
    assert prepare(config, tmp_path).images_per_worker == 4


def test_other_configs_leave_nothing_to_the_data():
    config = recipes.base_config()
    assert not fits_to_data(config)
    for name in FIELDS:
        one = recipes.base_config()
        one.update_from_flattened_dict({name: -1})
        assert fits_to_data(one)
