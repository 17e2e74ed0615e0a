import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.training.durations import resolve_durations


def test_epochs_become_steps(config):
    config.num_epochs, config.num_steps = 90.0, 0
    config.schedule.warmup_epochs, config.eval_every_epochs = 5.0, 1.0
    durations = resolve_durations(config, steps_per_epoch=1251)
    # 1,281,167 images in batches of 1,024: the paper's 112,590 steps.
    assert durations.num_steps == 112_590
    assert durations.warmup_steps == 6255
    assert durations.eval_every_steps == 1251
    assert durations.epoch(1251) == 1


def test_steps_are_taken_as_they_are(config):
    config.num_epochs, config.num_steps = 0.0, 2000
    config.schedule.warmup_epochs, config.eval_every_epochs = 0.0, 0.0
    durations = resolve_durations(config, steps_per_epoch=390)
    assert (durations.num_steps, durations.eval_every_steps) == (2000, 2000)


def test_halving_the_batch_doubles_every_duration(config):
    config.num_epochs, config.schedule.warmup_epochs = 10.0, 2.0
    large = resolve_durations(config, steps_per_epoch=100)
    small = resolve_durations(config, steps_per_epoch=200)
    assert small.num_steps == 2 * large.num_steps
    assert small.warmup_steps == 2 * large.warmup_steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_epochs": 1.0, "num_steps": 5}, "exactly one of them"),
        ({"num_epochs": 0.0, "num_steps": 0}, "exactly one of them"),
        ({"schedule.warmup_epochs": 2.0}, "end before the run"),
        ({"schedule.warmup_epochs": -1.0}, "at least 0"),
        ({"num_epochs": 1e12}, r"num_epochs=1000000000000\.0 are 4e\+12 steps; .* at most 2,147"),
    ],
)
def test_impossible_durations_name_the_field(config, fields, message):
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        resolve_durations(config, steps_per_epoch=4)
