"""How many groups there are."""

import logging

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.layers import groups as layer_groups
from evonorm_jax.layers.groups import resolve_num_groups


@pytest.mark.parametrize(
    ("channels", "wanted", "groups"),
    [
        (64, None, 32),
        (48, None, 24),
        (24, None, 24),
        (31, None, 31),
        (37, None, 1),
        (1, None, 1),
        (64, 16, 16),
        (20, 8, 5),
        (8, 64, 8),
    ],
)
def test_group_count_is_lowered_until_it_divides(channels, wanted, groups):
    assert resolve_num_groups(channels, wanted) == groups


def test_group_size_is_exact():
    assert resolve_num_groups(48, group_size=16) == 3
    with pytest.raises(UserError, match="group_size=32 must divide the 48 channels"):
        resolve_num_groups(48, group_size=32)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("field", ["num_groups", "group_size"])
def test_groups_are_positive(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        resolve_num_groups(48, **{field: value})


def test_count_and_size_exclude_each_other():
    with pytest.raises(UserError, match="num_groups=32 and group_size=16"):
        resolve_num_groups(64, num_groups=32, group_size=16)


def test_a_lowered_count_is_logged_once_for_each_pair(caplog):
    layer_groups._log_lowered.cache_clear()
    with caplog.at_level(logging.INFO, logger="evonorm_jax"):
        for channels in (40, 40, 56, 40, 64):
            resolve_num_groups(channels)
    assert [record.getMessage() for record in caplog.records] == [
        "32 groups do not divide 40 channels: 20 groups of 2 channels are used",
        "32 groups do not divide 56 channels: 28 groups of 2 channels are used",
    ]
