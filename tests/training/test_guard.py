import json

import jax.numpy as jnp
import pytest

from evonorm_jax.data import create_pipeline
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.guard import NonFiniteGuard, TrainingDiverged
from evonorm_jax.training.tasks.classification import Classification


@pytest.fixture
def guard(tmp_path, config):
    with Checkpoints(tmp_path) as checkpoints:
        pipeline = create_pipeline(config.dataset, seed=0)
        yield NonFiniteGuard(Classification(config, pipeline), checkpoints)


def metrics(loss, grad_norm=1.0):
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}


def test_means_are_over_the_steps_since_the_last_call(guard):
    for step, loss in enumerate([1.0, 2.0, 6.0], start=1):
        guard.add(step, metrics(loss))
    guard.check()
    guard.add(4, metrics(7.0))
    assert guard.means()["loss"] == 4.0
    guard.add(5, metrics(5.0))
    assert guard.means()["loss"] == 5.0


def test_running_sums_go_on_where_they_were(guard):
    losses = [0.1, 0.7, 0.3, 0.9]
    for step, loss in enumerate(losses, start=1):
        guard.add(step, metrics(loss))
    whole = guard.means()
    for step, loss in enumerate(losses[:3], start=1):
        guard.add(step, metrics(loss))
    guard.check()
    saved = json.loads(json.dumps(guard.running_sums()))
    assert saved["count"] == 3
    guard.means()
    guard.resume(saved)
    guard.add(4, metrics(losses[3]))
    assert guard.means() == whole  # bit for bit
    guard.resume({})
    guard.add(5, metrics(5.0))
    assert guard.means()["loss"] == 5.0


@pytest.mark.parametrize("bad", [metrics(float("nan")), metrics(1.0, float("inf"))])
def test_the_first_bad_step_is_named_with_the_layer(guard, bad):
    guard.add(1, metrics(1.0))
    guard.add(2, bad)
    guard.add(3, metrics(float("nan")))
    with pytest.raises(TrainingDiverged, match=r"at step 2 .*evonorm_s0.*there is no checkpoint"):
        guard.check()
