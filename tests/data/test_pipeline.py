import itertools

import numpy as np
import pytest

from evonorm_jax.data import Hosts, create_pipeline, dataset_config, steps_per_epoch
from evonorm_jax.data.pipeline import eval_mask, pad_to, train_positions
from evonorm_jax.errors import UserError


def positions(start_step, number, *, num_examples=53, batch_size=8, hosts=None, seed=3):
    """`number` steps of (indices, places)."""
    steps = train_positions(
        num_examples, seed, start_step=start_step, batch_size=batch_size, hosts=hosts or Hosts()
    )
    return list(itertools.islice(steps, number))


def test_an_epoch_is_a_permutation_without_the_remainder():
    epochs = positions(0, 12)  # 53 // 8 = 6 steps each
    first = np.concatenate([indices for indices, _ in epochs[:6]])
    second = np.concatenate([indices for indices, _ in epochs[6:]])
    np.testing.assert_array_equal(first, np.random.default_rng((3, 0)).permutation(53)[:48])
    assert len(set(first)) == len(set(second)) == 48
    assert (first != second).any()


def test_places_are_never_repeated():
    places = np.concatenate([places for _, places in positions(0, 20)])
    assert len(set(places)) == len(places)
    assert places[48] == 53  # the second epoch starts after the dropped remainder


@pytest.mark.parametrize("start_step", [0, 1, 5, 6, 7, 13, 600])
def test_resuming_gives_the_batches_of_the_uninterrupted_run(start_step):
    whole = positions(0, start_step + 9)[start_step:]
    np.testing.assert_array_equal(positions(start_step, 9), whole)


def test_the_seed_changes_the_order():
    assert (positions(0, 1, seed=3)[0][0] != positions(0, 1, seed=4)[0][0]).any()


@pytest.mark.parametrize("process_count", [2, 4])
def test_hosts_share_the_global_batch(process_count):
    whole = positions(4, 5)
    parts = [
        positions(4, 5, hosts=Hosts(process, process_count)) for process in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), whole)


def test_position_p_belongs_to_device_p_div_per_device():
    hosts = Hosts(process_index=1, process_count=2, local_device_count=2)
    batch = {"index": np.arange(16)[hosts.positions(16)]}
    np.testing.assert_array_equal(hosts.shard(batch)["index"], [[8, 9, 10, 11], [12, 13, 14, 15]])


@pytest.mark.parametrize("batch_size", [0, -8, 12])
def test_a_batch_that_devices_cannot_share(batch_size):
    with pytest.raises(UserError, match=f"batch of {batch_size} cannot be shared by 8 devices"):
        Hosts(process_count=2, local_device_count=4).per_device(batch_size)


def test_round_up():
    hosts = Hosts(process_count=2, local_device_count=4)
    assert [hosts.round_up(size) for size in (1, 8, 9)] == [8, 8, 16]
    with pytest.raises(UserError, match="must be positive"):
        hosts.round_up(0)


@pytest.mark.parametrize("hosts", [(2, 2, 1), (-1, 2, 1), (0, 1, 0)])
def test_impossible_hosts(hosts):
    with pytest.raises(UserError, match="impossible"):
        Hosts(*hosts)


def test_steps_per_epoch():
    pipeline = create_pipeline(dataset_config("digits", "embedded"), seed=0)
    assert [steps_per_epoch(pipeline, size) for size in (1, 128, 1437)] == [1437, 11, 1]
    for batch_size in (0, 1438):
        with pytest.raises(UserError, match=f"batch of {batch_size} does not fit .* 1437"):
            steps_per_epoch(pipeline, batch_size)


def test_a_negative_start_step():
    with pytest.raises(UserError, match="start_step must be 0 or more"):
        positions(-1, 1)


def test_padding():
    np.testing.assert_array_equal(pad_to(np.array([[1], [2]]), 3), [[1], [2], [0]])
    mask = eval_mask(2, 4)
    np.testing.assert_array_equal(mask, [1, 1, 0, 0])
    assert mask.dtype == np.float32
