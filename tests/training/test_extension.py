"""A run that goes on for longer than it was started for."""

import io
import json

import jax
import numpy as np
import pytest

from configs import recipes
from evonorm_jax.errors import UserError
from evonorm_jax.training import run_directory, train_and_evaluate
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.extension import find_extension
from tests.training.tasks import regression

ONE_DEVICE = jax.devices()[:1]


def regression_config(num_epochs):
    """A run with a constant learning rate, four steps an epoch."""
    config = recipes.smoke(recipes.digits("evonorm_s0"))
    config.task = f"{regression.__name__}:Regression"
    config.num_epochs = num_epochs
    return config


def train(num_epochs, workdir, **flags):
    stream, config = io.StringIO(), regression_config(num_epochs)
    summary = train_and_evaluate(
        config, workdir, devices=ONE_DEVICE, progress_stream=stream, **flags
    )
    return summary, stream.getvalue()


def params(workdir, step):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.read_variables(step)[1]["params"]


def test_with_a_constant_rate_it_equals_a_run_that_was_long_from_the_start(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected, _ = train(2.0, whole)
    assert train(1.0, parts)[0]["steps"] == 4
    with pytest.raises(UserError, match=r"num_epochs: 1.0 there, 2.0 here\n.* with --extend"):
        train(2.0, parts)
    with monkeypatch.context() as patch:
        patch.setattr("evonorm_jax.training.loop.Preemption.requested", lambda self, now: now == 6)
        assert train(2.0, parts, extend=True)[0] == {}
    assert not (parts / "summary.json").exists()  # it is no finished run any more
    summary, text = train(2.0, parts, extend=True)
    assert "Resuming" in text
    assert "Extending" not in text
    assert summary | {"train_seconds": 0} == expected | {"train_seconds": 0}
    jax.tree.map(np.testing.assert_array_equal, params(parts, 8), params(whole, 8))
    starts = json.loads((parts / "metadata.json").read_text())["starts"]
    assert [start["resolved"]["num_steps"] for start in starts] == [4, 8, 8]
    with pytest.raises(UserError, match=r"has 8 steps and .*, here it is 4 and 0. Raise"):
        train(1.0, parts, extend=True)
    assert "Nothing to do" in train(2.0, parts, extend=True)[1]


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(UserError, match=r"--extend: there is no run in .*/run; start one"):
        train(1.0, tmp_path / "run", extend=True)
    assert not (tmp_path / "run").exists()


def test_it_says_what_becomes_of_the_learning_rate(tmp_path, config):
    config.schedule.update({"name": "cosine", "warmup_epochs": 0.0})
    config.optimizer.update({"learning_rate_per_256": 0.0, "learning_rate": 1.0})
    run_directory.open_run_directory(tmp_path, create_experiment(config), first_process=True)
    config.num_epochs = 4.0
    extension = find_extension(tmp_path, create_experiment(config))
    # Cosines of 8 and of 16 steps: (1 + cos(7 pi / 8)) / 2 and (1 + cos(pi / 2)) / 2.
    assert extension.describe(8) == (
        "Extending the run from 8 to 16 steps. From step 9 on its schedule is that of a run of 16 "
        "steps: learning rate 0.03806 before, 0.5 now."
    )


def test_a_larger_patience_is_an_extension_and_a_smaller_one_is_not(tmp_path, config):
    config.early_stopping_patience = 2
    run = create_experiment(config)
    run_directory.open_run_directory(tmp_path, run, first_process=True)
    assert find_extension(tmp_path, run) is None
    for patience, words in ((3, "3 evaluations may bring"), (0, "no longer stops early")):
        config.early_stopping_patience = patience
        run_directory.check_owner(tmp_path, config, extend=True)
        assert words in find_extension(tmp_path, run).describe(4)
    config.early_stopping_patience = 1
    with pytest.raises(UserError, match="early_stopping_patience=2, here it is 8 and 1"):
        find_extension(tmp_path, run)
