"""What a rule allows, and what its message says."""

import pytest
from ml_collections import ConfigDict

from evonorm_jax.errors import UserError
from evonorm_jax.field_rules import (
    block,
    check_fields,
    check_known,
    check_plain,
    flag,
    like,
    number,
    one_of,
    optional,
    seed,
    several,
    text,
    whole,
)

SHARE = number(at_least=0, below=1)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "message"),
    [
        (whole(1), [1, 2**31 - 1], [0], "it must be at least 1."),
        (whole(1), [], [True, 1.0, "1", None, 2**31], "a whole number up to 2,147,483,647, at"),
        (whole(1, 9), [9], [10, 10**30], "it must be at least 1 and at most 9."),
        (whole(), [-5], [10**30], "a whole number up to 2,147,483,647."),
        (seed(), [0, 2**40], [-1, 2**63], "at least 0 and below 2**63"),
        (SHARE, [0, 0.0, 0.999], [1, -1e-9], "it must be at least 0 and below 1."),
        (SHARE, [], [float("inf"), float("nan"), 1e39, "a", True, None], "a finite number, at"),
        (number(above=0), [1e-30], [0, -1], "above 0"),
        (number(at_most=3), [3], [3.1], "at most 3"),
        (flag(), [True, False], [0, 1, "True", None], "True or False"),
        (text(), ["", "a"], [b"a", 1, None], "a text"),
        (one_of(["a", "b"]), ["a"], ["c", ""], "a or b"),
        (one_of(["a", "b", "c"]), ["a"], ["d"], "one of a, b, c"),
        (several(SHARE), [(), [0.5], (0, 0.5)], [0.5, ("a",), (1.0,), None], "a tuple, each item"),
        (optional(whole(1)), [None, 3], [0], "at least 1"),
        (optional(whole(1)), [], ["x"], "None or a whole number"),
        (block(), [{}, ConfigDict()], [3, [], None], "a block of fields"),
        (like(3), [4], [4.0, True], "a whole number"),
        (like(True), [False], [0], "True or False"),
        (like((1, 2)), [(3,), [4]], [(1.5,), "ab"], "each item a whole number"),
        (like(None), [None, 3, "x"], [], ""),
    ],
)
def test_a_rule(rule, allowed, refused, message):
    for value in allowed:
        rule.check("field", value)
    for value in refused:
        with pytest.raises(UserError) as caught:
            rule.check("field", value)
        assert str(caught.value).startswith("field=")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {}}, "config.a has no field 'b', which it must have. It has: none."),
        ({"a": 3}, "config.a=3; it must be a block of fields."),
        ({}, "config has no field 'a', which it must have"),
        ({"a": {"b": -1}}, "config.a.b=-1; it must be at least 0."),
    ],
)
def test_fields_are_found_by_their_dotted_names(content, message):
    for kind in (dict, ConfigDict):
        with pytest.raises(UserError) as caught:
            check_fields(kind(content), {"a.b": whole(0)}, "config")
        assert message in str(caught.value)


def test_what_is_not_required_may_be_missing():
    check_fields({"a": {}}, {"a.b": whole(0), "c": flag()}, "config", required=False)
    with pytest.raises(UserError, match=r"config\.a has no field 'x'\. It has: b"):
        check_known({"x": 1}, ["b"], "config.a")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, float("nan")]}, "config.a[1]=nan; it must be a finite number."),
        ({"a": 10**5000}, "config.a=int(...); it must be a finite number."),
        ({"a": {1: 2}}, "config.a has a field 1; names of fields are texts without dots."),
        ({"a": {"b.c": 2}}, "config.a has a field 'b.c'; names of fields"),
        ({"a": {1, 2}}, "or a block of these, not set."),
        ({"a": b"x"}, "config.a=b'x'; it must be a number"),
        ({"a": 1j}, "not complex."),
        ({"a": ("x" * 1000, object)}, "config.a[1]=<class 'object'>; it must"),
    ],
)
def test_what_json_cannot_hold_is_refused(value, message):
    with pytest.raises(UserError) as caught:
        check_plain(value, "config")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250
