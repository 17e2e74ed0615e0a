import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.training.parallel import (
    AXIS,
    DataParallel,
    WorkerLayout,
    joined_mean,
    layout_workers,
    mean_over_devices,
    replica_divergence,
    to_host,
)


def test_as_many_workers_as_devices_need_nothing_special():
    assert layout_workers(8, 4, 8) == WorkerLayout(batch_size=32, per_device=4)


def test_several_workers_on_a_device_are_virtual_batches():
    layout = layout_workers(8, 4, 2)
    assert (layout.per_device, layout.virtual_batch_size, layout.axis_name) == (16, 4, None)


def test_one_device_with_one_worker_needs_no_axis():
    assert layout_workers(1, 128, 1) == WorkerLayout(batch_size=128, per_device=128)


def test_a_worker_on_several_devices_pools_its_group():
    layout = layout_workers(2, 8, 4)
    assert layout.axis_name == AXIS
    assert layout.axis_index_groups == ((0, 1), (2, 3))
    assert layout.virtual_batch_size is None


def test_one_worker_on_all_devices_pools_all():
    layout = layout_workers(1, 16, 8)
    assert (layout.axis_name, layout.axis_index_groups, layout.per_device) == (AXIS, None, 2)


def test_synchronised_statistics_ignore_the_workers():
    layout = layout_workers(8, 4, 2, sync_batch_stats=True)
    assert (layout.axis_name, layout.virtual_batch_size) == (AXIS, None)
    assert layout_workers(8, 4, 1, sync_batch_stats=True).axis_name is None


@pytest.mark.parametrize(
    ("workers", "images", "devices", "message"),
    [
        (3, 5, 2, "cannot be divided over 2 devices"),
        (6, 8, 4, "one must be a multiple"),
        (0, 8, 4, "config.num_workers is 0"),
        (8, 0, 4, "config.images_per_worker is 0"),
    ],
)
def test_impossible_layouts_say_why(workers, images, devices, message):
    with pytest.raises(UserError, match=message):
        layout_workers(workers, images, devices)


def test_replicate_shard_and_reduce_over_eight_devices():
    parallel = DataParallel()
    assert parallel.hosts.local_device_count == len(parallel.devices) == 8
    batch = np.arange(16, dtype=np.float32).reshape(8, 2)

    def step(state, resident, batch):
        return state + jax.lax.psum(jnp.sum(batch * resident["weight"]), AXIS)

    result = parallel.parallelize(step)(
        parallel.replicate(np.float32(1)),
        parallel.replicate({"weight": np.float32(2)}),
        parallel.shard(batch),
    )
    assert result.shape == ()
    assert float(result) == 1 + 2 * batch.sum()
    assert replica_divergence(result) == 0


def test_a_forgotten_reduction_is_seen_as_divergence():
    parallel = DataParallel()
    state = parallel.replicate(np.zeros((3,), np.float32))

    def step(state, resident, batch):
        return state + jnp.sum(batch)  # not reduced over the axis: out_axes=None takes it anyway

    result = parallel.parallelize(step)(
        state, {}, parallel.shard(np.arange(8, dtype=np.float32)[:, None])
    )
    assert replica_divergence(result) == 7


def gradients(shapes=((3, 4), (5,), ())):
    """One value for each of eight devices, of several shapes."""
    rng = np.random.default_rng(0)
    return {f"leaf{i}": rng.normal(size=(8, *s)).astype("float32") for i, s in enumerate(shapes)}


def test_the_joined_mean_is_the_mean_bit_for_bit():
    parallel = DataParallel()

    def step(state, resident, batch):
        return mean_over_devices(batch), joined_mean(batch)

    state = parallel.replicate(np.float32(0))
    plain, joined = parallel.parallelize(step)(state, {}, parallel.shard(gradients()))
    for name, values in gradients().items():
        np.testing.assert_array_equal(plain[name], joined[name])
        np.testing.assert_allclose(joined[name], values.mean(0, np.float64), rtol=1e-6, atol=1e-7)


def test_gradients_cross_gpus_in_one_buffer():
    mesh, spec = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,)), jax.sharding.PartitionSpec
    step = jax.shard_map(
        mean_over_devices, mesh=mesh, in_specs=spec(AXIS), out_specs=spec(), check_vma=False
    )
    traced = jax.jit(step).trace(gradients())
    reductions = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("all_reduce")
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    assert reductions == {"cpu": 3, "cuda": 1, "rocm": 1, "tpu": 3}


def test_a_subset_of_the_devices():
    parallel = DataParallel(jax.devices()[:2])
    result = parallel.parallelize(lambda s, r, b: jax.lax.psum(jnp.sum(b), AXIS))(
        parallel.replicate(np.float32(0)), {}, parallel.shard(np.ones((2, 3), np.float32))
    )
    assert float(result) == 6


def test_host_copies_own_their_memory():
    parallel = DataParallel(jax.devices()[:1])
    device_tree = parallel.replicate({"a": np.arange(3.0, dtype=np.float32)})
    host_tree = to_host(device_tree)
    assert host_tree["a"].flags.owndata
    np.testing.assert_array_equal(host_tree["a"], [0, 1, 2])
