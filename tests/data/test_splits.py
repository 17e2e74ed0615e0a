import pytest

from evonorm_jax.data.splits import parse_split, split_slice
from evonorm_jax.errors import UserError


def test_parse_split():
    assert parse_split("train") == ("train", "", "")
    assert parse_split("train[10%:90%]") == ("train", "10%", "90%")
    assert parse_split("train[:]") == ("train", "", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train", slice(0, 50)),
        ("train[:90%]", slice(0, 45)),
        ("train[90%:]", slice(45, 50)),
        ("train[7:9]", slice(7, 9)),
        ("train[33%:66%]", slice(16, 33)),
    ],
)
def test_split_slice(text, expected):
    assert split_slice(text, 50) == expected


def test_complementary_parts_are_disjoint_and_complete():
    for percent in range(1, 100):
        first, second = split_slice(f"t[:{percent}%]", 77), split_slice(f"t[{percent}%:]", 77)
        assert (first.start, first.stop, second.stop) == (0, second.start, 77)


@pytest.mark.parametrize("text", ["", "train[", "train[5]", "train[a:b]", "train[:5]x"])
def test_unreadable(text):
    with pytest.raises(UserError, match="cannot be read"):
        parse_split(text)


@pytest.mark.parametrize("text", ["train[5:5]", "train[9:3]", "train[:51]", "train[60:]"])
def test_empty_or_too_long(text):
    with pytest.raises(UserError, match="at least one example"):
        split_slice(text, 50)
