"""The protocol: its numbers, its JSON, what it refuses."""

import json

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.protocol import AbortRule, ProxyProtocol, Stability


def test_the_published_values():
    protocol = ProxyProtocol()
    assert (protocol.crop_size, protocol.batch_size) == (24, 128)
    assert (protocol.learning_rate, protocol.momentum, protocol.weight_decay) == (0.1, 0.9, 1e-4)
    assert (protocol.num_steps, protocol.schedule) == (2_000, "constant")
    assert (protocol.quality_steps, protocol.quality_accuracy) == (100, 20.0)
    assert (protocol.stability.num_steps, protocol.stability.max_gradient_norm) == (100, 1e8)


def test_schedules():
    assert ProxyProtocol().learning_rates()(1_999) == 0.1
    cosine = ProxyProtocol(num_steps=5_000, schedule="cosine").learning_rates()
    assert [float(cosine(step)) for step in (0, 2_500, 5_000)] == pytest.approx([0.1, 0.05, 0])


@pytest.mark.parametrize(
    "protocol",
    [
        ProxyProtocol(),
        ProxyProtocol(ANCHOR_SIZES["tiny"], filters=None, abort_rules=(), num_steps=100),
        ProxyProtocol([Anchor("resnet18", {"num_filters": 8})], stability=Stability(0)),
    ],
)
def test_round_trip_through_json(protocol):
    text = json.dumps(protocol.to_dict())
    assert ProxyProtocol.from_dict(json.loads(text)) == protocol
    assert json.loads(text) == protocol.to_dict()


def test_fields_of_anchors_from_json_are_hashable():
    anchor = Anchor("resnet50_cifar", {"stage_sizes": [1, 1]})
    assert anchor == Anchor("resnet50_cifar", (("stage_sizes", (1, 1)),))
    assert len({anchor}) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "step"}, "constant or cosine"),
        ({"num_steps": 50}, "quality_steps=100.*1 to num_steps=50"),
        ({"anchors": ()}, "at least one network"),
        ({"anchors": [Anchor("resnet18")] * 2}, "different names"),
        ({"stability": Stability(anchor=3)}, "0 to 2"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_out_of_range(fields, message):
    with pytest.raises(UserError, match=message):
        ProxyProtocol(**fields)


def test_unknown_field():
    with pytest.raises(UserError, match="protocol has no field 'steps'"):
        ProxyProtocol.from_dict({"steps": 3})


def test_abort_rules_look_at_steps_that_were_made():
    with pytest.raises(UserError, match="window"):
        ProxyProtocol(abort_rules=(AbortRule(5, 10, 2.3),))
