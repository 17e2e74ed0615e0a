import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.parallel import to_host


@pytest.fixture(scope="module")
def run():
    from configs import recipes

    config = recipes.smoke(recipes.digits("evonorm_b0"))
    config.ema_decay = 0.9
    return create_experiment(config)


@pytest.fixture(scope="module")
def state(run):
    return run.parallel.replicate(run.create_state())


def at_step(state, step):
    return state.replace(step=jax.numpy.full_like(state.step, step))


def test_a_state_comes_back_bit_for_bit(tmp_path, run, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at_step(state, 7), run.config, train_seconds=1.5)
        checkpoints.wait()
        assert checkpoints.latest_step == 7
        restored, seconds = checkpoints.restore(run.state_shapes())
    assert seconds == 1.5
    jax.tree.map(np.testing.assert_array_equal, restored, jax.device_get(at_step(state, 7)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_a_checkpoint_from_before_there_were_collections_comes_back(tmp_path, run, state):
    """Then `batch_stats` lay beside `params`."""
    manager = ocp.CheckpointManager(
        tmp_path / "checkpoints",
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        },
    )
    now = to_host(at_step(state, 7))
    earlier = {name: getattr(now, name) for name in ("step", "params", "opt_state", "ema")}
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(earlier | now.collections),
        data=ocp.args.JsonSave({"train_seconds": 2.5}),
    )
    manager.save(7, args=arguments)
    manager.close()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored, seconds = checkpoints.restore(run.state_shapes())
        _, variables, averages = checkpoints.read_variables()
    assert seconds == 2.5
    jax.tree.map(np.testing.assert_array_equal, restored, now)
    assert set(variables) == set(averages) == {"params", "batch_stats"}
    jax.tree.map(
        np.testing.assert_array_equal, variables["batch_stats"], now.collections["batch_stats"]
    )


def test_what_is_left_out_is_neither_compared_nor_read(tmp_path, run, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at_step(state, 1), run.config)
        checkpoints.wait()
        shapes = run.state_shapes().replace(opt_state=())
        restored, _ = checkpoints.restore(shapes, leave_out=("opt_state",))
        assert restored.opt_state == ()
        jax.tree.map(np.testing.assert_array_equal, restored.params, jax.device_get(state.params))
        with pytest.raises(UserError, match=r"opt_state/.* model missing"):
            checkpoints.restore(shapes)


def test_only_the_newest_are_kept(tmp_path, run, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(at_step(state, step), run.config)
        checkpoints.wait()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["2", "3"]


def test_saving_a_step_twice_is_harmless(tmp_path, run, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at_step(state, 1), run.config)
        checkpoints.save(at_step(state, 1), run.config)
        checkpoints.wait()
        assert checkpoints.latest_step == 1


def test_an_unfinished_checkpoint_is_not_one(tmp_path, run, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at_step(state, 1), run.config)
    # What a kill leaves: orbax writes under a temporary name and renames at the end.
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (unfinished / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 1
        checkpoints.save(at_step(state, 2), run.config)
        checkpoints.wait()
        assert checkpoints.latest_step == 2


def test_another_model_is_refused_by_name(tmp_path, run, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at_step(state, 1), run.config)
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.fields.num_filters = 16
    other = create_experiment(config).state_shapes()
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"of another model.*") as error,
    ):
        checkpoints.restore(other)
    assert "batch_stats/head_norm/var: checkpoint (32,), model (64,)" in str(error.value)


@pytest.mark.parametrize("step", [None, 4])
def test_a_missing_checkpoint_is_named(tmp_path, run, step):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match=r"No checkpoint of step .* \(there: none\)"),
    ):
        checkpoints.restore(run.state_shapes(), step)
