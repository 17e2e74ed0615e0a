"""The engine on the embedded digits: every way a candidate can end, purity, equal verdicts."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.graphs import LIBRARY, Graph
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.engine import Engine
from evonorm_jax.search.engine.protocol import AbortRule, ProxyProtocol, Stability
from evonorm_jax.search.engine.trainer import count_hits
from evonorm_jax.search.engine.verdicts import DecidingStage, Reason, TrainingReason, Verdict

ANCHORS = (
    Anchor(
        "mobilenet_v2_cifar", {"stage_sizes": (1,), "width_multiplier": 0.25, "stem": "imagenet"}
    ),
    Anchor("resnet50_cifar", {"stage_sizes": (1,), "num_filters": 16}),
)
PROTOCOL = ProxyProtocol(
    ANCHORS,
    crop_size=0,
    batch_size=32,
    num_steps=32,
    eval_batch_size=100,
    quality_steps=24,
    quality_examples=200,
    quality_accuracy=5.0,
    stability=Stability(num_steps=2),
    abort_rules=(),
    num_groups=4,
)
DATA = dataset_config("digits", "embedded")
GOOD = LIBRARY["rs_rej"]


def make_engine(whole_network=None, **fields):
    protocol = dataclasses.replace(PROTOCOL, **fields)
    return Engine(protocol, DATA, whole_network=whole_network)


@pytest.fixture(scope="module")
def engine(quick_compilation):
    """What it compiles serves the engines of the tests as well: see `stitched_anchor`."""
    return make_engine()


@pytest.fixture(scope="module")
def good(engine):
    return engine.evaluate(GOOD, seed=0)


def test_a_layer_that_learns_is_scored(good):
    assert (good.reason, good.stage) == (None, DecidingStage.SCORED)
    assert good.steps == 2 * 32
    names = ["mobilenet_v2_cifar", "resnet50_cifar"]
    assert list(good.scores) == list(good.details["quality"]) == names
    assert all(20 < score <= 100 for score in good.scores.values())
    assert [len(good.details["losses"][name]) for name in names] == [3, 3]  # of 10, 10 and 4
    assert 0 < good.details["gradient_norm"] < 1e8
    assert good.seconds > 0


def test_evaluations_survive_json(good):
    assert Verdict.from_dict(json.loads(json.dumps(good.to_dict()))) == good


def test_the_same_again(engine, good):
    """Whatever was evaluated in between, and with unused nodes."""
    engine.evaluate(LIBRARY["random_rej"], seed=3)
    padded = Graph.from_text("n4 = tanh(v0); n5 = max(0, x); n6 = rms_bwh(x); n7 = div(n5, n6)")
    again = engine.evaluate(padded, seed=0)
    assert again == dataclasses.replace(good, seconds=again.seconds)


def test_another_seed_is_another_run(engine, good):
    other = engine.evaluate(GOOD, seed=1)
    assert other.details["losses"] != good.details["losses"]
    assert other.details["function"] == good.details["function"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n4 = exp(v1)", Reason.NO_PATH_FROM_X),
        ("n4 = mean_wh(x)", Reason.NO_SPATIAL_DEPENDENCE),
    ],
)
def test_filters_come_first(engine, text, reason):
    verdict = engine.evaluate(Graph.from_text(text), seed=0)
    assert (verdict.reason, verdict.stage) == (reason, DecidingStage.FILTERS)
    assert (verdict.steps, verdict.scores) == (0, {})


def test_a_loss_that_is_not_finite_ends_the_run(engine):
    explosive = Graph.from_text("n4 = square(x); n5 = exp(n4)")
    verdict = make_engine(filters=None).evaluate(explosive, seed=0)
    assert (verdict.reason, verdict.stage) == (
        TrainingReason.NONFINITE_LOSS,
        DecidingStage.QUALITY,
    )
    assert verdict.steps < 24
    assert verdict.details["anchor"] == "mobilenet_v2_cifar"
    assert f"in step {verdict.steps}" in verdict.details["message"]


def test_where_nothing_rejects_a_run_that_diverges_counts_as_guessing(engine):
    """And the other anchor is trained all the same."""
    explosive = Graph.from_text("n4 = square(x); n5 = exp(n4)")
    nothing = {"quality_accuracy": 0.0, "nonfinite_rejects": False, "stability": Stability(0)}
    verdict = make_engine(filters=None, **nothing).evaluate(explosive, seed=0)
    assert (verdict.reason, verdict.stage) == (None, DecidingStage.SCORED)
    assert verdict.scores == {anchor.model: 10.0 for anchor in ANCHORS}
    assert 0 < verdict.steps < 2 * 24
    assert list(verdict.details["losses"]) == list(verdict.scores)


def test_a_loss_above_the_rule_ends_the_run(engine):
    rule = AbortRule(step=6, window=4, max_loss=0.5)
    verdict = make_engine(abort_rules=(rule,)).evaluate(GOOD, seed=0)
    assert (verdict.reason, verdict.stage) == (TrainingReason.HOPELESS, DecidingStage.QUALITY)
    assert verdict.steps == 6


def test_low_accuracy_on_any_anchor_rejects(engine, good):
    first, second = good.details["quality"].values()
    assert first != second
    limit = (first + second) / 2
    verdict = make_engine(quality_accuracy=limit).evaluate(GOOD, seed=0)
    assert (verdict.reason, verdict.stage) == (
        TrainingReason.LOW_ACCURACY,
        DecidingStage.QUALITY,
    )
    failed = 0 if first < second else 1
    assert verdict.details["anchor"] == ANCHORS[failed].model
    assert verdict.steps == 24 * (failed + 1)


def test_a_large_gradient_rejects(engine):
    stability = Stability(num_steps=2, max_gradient_norm=1e-6)
    verdict = make_engine(stability=stability).evaluate(GOOD, seed=0)
    assert (verdict.reason, verdict.stage) == (
        TrainingReason.UNSTABLE,
        DecidingStage.STABILITY,
    )
    assert verdict.details["gradient_norm"] > 1e-6


def test_first_steps_alone_are_scores(engine, good):
    first = make_engine(num_steps=24, quality_examples=0, stability=Stability(0)).evaluate(
        GOOD, seed=0
    )
    assert first.scores == first.details["quality"]
    assert first.details["losses"] == good.details["losses"]


def test_what_was_filtered_and_hashed_is_not_again(engine, good, monkeypatch):
    """The hash of the caller stands in the verdict, and all else is the same."""
    function = good.details["function"]
    for name in ("reject", "functional_hash"):
        monkeypatch.delattr(f"evonorm_jax.search.engine.engine.{name}")
    again = engine.evaluate(GOOD, 0, function)
    assert again == dataclasses.replace(good, seconds=again.seconds)
    with pytest.raises(NameError):
        engine.evaluate(GOOD, seed=0)


def test_whole_networks_decide_the_same(engine, good):
    """`survivors` changes to the whole network in the middle of a run."""
    for choice in ("survivors", "always"):
        verdict = make_engine(whole_network=choice).evaluate(GOOD, seed=0)
        assert verdict.reason is None
        for name, losses in good.details["losses"].items():
            np.testing.assert_allclose(verdict.details["losses"][name], losses, rtol=1e-3)
            assert verdict.scores[name] == pytest.approx(good.scores[name], abs=3)


def test_unusable_arguments():
    with pytest.raises(UserError, match="never, survivors, always"):
        make_engine(whole_network="sometimes")
    with pytest.raises(UserError, match="in_memory"):
        Engine(PROTOCOL, dataset_config("imagenet2012", "fake"))


def test_training_without_filters_needs_a_path(engine):
    with pytest.raises(UserError, match="no path leads from x"):
        make_engine(filters=None).evaluate(Graph.from_text("n4 = exp(v1)"), seed=0)


def test_hits_count_no_tie_no_padding_and_nothing_that_is_not_finite():
    logits = jnp.array(
        [[3.0, 1, 2], [1, 1, 0], [0, 2, 1], [jnp.nan, 5, 0], [2, 0, 0], [1, 5, jnp.inf]]
    )
    labels, mask = jnp.array([0, 0, 2, 1, 0, 2]), jnp.array([1, 1, 1, 1, 0, 1])
    hits, count = count_hits(logits, labels, mask)
    assert (float(hits), float(count)) == (1, 5)
