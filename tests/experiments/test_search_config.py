"""Configs of searches that cannot be: one message, and nothing written before it."""

import copy
import sys

import pytest

from configs.search import cifar10_evonorm_s
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import as_json
from evonorm_jax.search.evolution.search_state import FIELDS as SEARCH_FIELDS
from evonorm_jax.search.evolution.space import FIELDS as SPACE_FIELDS
from experiments import search

pytestmark = pytest.mark.hostile

CONFIG = as_json(cifar10_evonorm_s.get_config("smoke").to_dict())
INFINITE = float("inf")


def changed(name, value):
    """The config with another value; `...` takes the field out."""
    plain = copy.deepcopy(CONFIG)
    *parents, field = name.split(".")
    node = plain
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[field]
    else:
        node[field] = value
    return plain


def test_every_field_has_a_rule():
    assert search.check_search(CONFIG).protocol.num_steps == 2
    assert CONFIG["search"].keys() == SEARCH_FIELDS.keys() - {"seed", "num_scores"}
    assert CONFIG["space"].keys() == SPACE_FIELDS.keys()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "config.seed=-1; it must be at least 0"),
        ("seed", ..., "config has no field 'seed'"),
        ("search", 3, "config.search=3; it must be a block of fields."),
        ("search.population_size", 10**9, "it must be at least 1 and at most 1,000,000."),
        ("search.max_scored", "4", "search.max_scored='4'; it must be None or a whole number"),
        ("search.max_scored", None, "give max_candidates or max_scored"),
        ("search.tournament_fraction", INFINITE, "config.search.tournament_fraction=inf; it must"),
        ("search.num_scores", 3, "search has no field 'num_scores'."),
        ("search.skip_neutral", 1, "search.skip_neutral=1; it must be True or False."),
        ("space.num_nodes", 100_000, "space.num_nodes=100000; it must be at least 1 and at most"),
        ("space.num_nodes", True, "space.num_nodes=True; it must be a whole number"),
        ("space.nodes", 3, "space has no field 'nodes'. It has: batch_moments, num_nodes"),
        ("protocol.learning_rate", INFINITE, "config.protocol.learning_rate=inf; it must be a f"),
        ("protocol.learning_rate", -0.1, "protocol.learning_rate=-0.1; it must be at least 0."),
        ("protocol.momentum", 2, "protocol.momentum=2; it must be at least 0 and below 1."),
        ("protocol.num_steps", 1.5, "protocol.num_steps=1.5; it must be a whole number"),
        ("protocol.quality_accuracy", 200, "protocol.quality_accuracy=200; it must be at least 0"),
        ("protocol.anchors", 5, "protocol.anchors=5; it must be a list of blocks."),
        ("protocol.anchors", [1], "protocol.anchors[0]=1; it must be a block of fields."),
        ("protocol.anchors", ["a"], "protocol.anchors[0]='a'; it must be a block of fields."),
        ("protocol.anchors", [{}], "protocol.anchors[0] has no field 'model', which it must have"),
        ("protocol.anchors", [{"modle": "x"}], "protocol.anchors[0] has no field 'modle'. It has"),
        ("protocol.anchors", [{"model": 3}], "protocol.anchors[0].model=3; it must be a text."),
        ("protocol.anchors", [{"model": "resnet51"}], "unknown model: 'resnet51'."),
        (
            "protocol.anchors",
            [{"model": "resnet50_cifar", "fields": [1]}],
            "protocol.anchors[0].fields=[1]; it must be a block of fields.",
        ),
        (
            "protocol.anchors",
            [{"model": "resnet50_cifar", "fields": {"num_filters": -8}}],
            "num_filters=-8: expected an integer of at least 1",
        ),
        ("protocol.abort_rules", {"step": 1}, "it must be a list of blocks."),
        ("protocol.abort_rules", [[20, 10, 2.3]], "protocol.abort_rules[0]=[20, 10, 2.3]; it must"),
        ("protocol.abort_rules", [{"step": 3, "window": 2}], "has no field 'max_loss', which it"),
        ("protocol.stability", None, "protocol.stability=None; it must be a block of fields."),
        ("protocol.stability.num_steps", -1, "protocol.stability.num_steps=-1; it must be at l"),
        ("protocol.filters", 3, "protocol.filters=3; it must be a block of fields."),
        ("protocol.filters.num_blocks", 10**9, "it must be at least 1 and at most 1,000."),
        ("protocol", None, "config.protocol=None; it must be a block of fields."),
        ("rerank.num_seeds", 0, "rerank.num_seeds=0; it must be at least 1"),
        ("rerank.protocol.momentum", 2, "In rerank: protocol.momentum=2; it must be at least 0"),
        ("rerank.protocol", ..., "rerank has no field 'protocol', which it must have"),
        ("rerank", [], "config.rerank=[]; it must be a block of fields."),
        ("dataset", ..., "config has no field 'dataset', which it must have"),
        ("dataset.std", [0.0], "config.dataset.std is [0.0], but must be positive"),
    ],
)
def test_what_cannot_be(name, value, message):
    with pytest.raises(UserError) as caught:
        search.check_search(changed(name, value))
    assert message in str(caught.value)


@pytest.mark.parametrize("part", ["protocol", "search", "space", "rerank", "dataset", None])
@pytest.mark.parametrize("value", [None, "x", 3, 2.5, [], {}, [1, "x"], float("nan"), -1, True])
def test_a_value_of_any_kind_is_taken_or_refused(part, value):
    """Each field in turn: nothing else than a message comes of it."""
    refused = 0
    for field in CONFIG[part] if part else CONFIG:
        try:
            search.check_search(changed(f"{part}.{field}" if part else field, value))
        except UserError:
            refused += 1
    assert refused or (part in ("search", "space") and value in (3, True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers=0"], "--workers=0: at least one worker"),
        (["--config.protocol.learning_rate=1e999"], "--config.protocol.learning_rate=inf; it mus"),
        (["--config.space.num_nodes=100000"], "space.num_nodes=100000"),
        (["--config.protocol.anchors=[1]"], "protocol.anchors[0]=1"),
        (["--config.rerank.num_winners=11"], "rerank.num_winners=11 must not be above"),
        (["--config=configs/digits_resnet_evonorm_s0.py"], "give it to experiments.train"),
    ],
)
def test_nothing_is_written_before_all_is_checked(arguments, message, tmp_path, monkeypatch):
    config = "--config=configs/search/cifar10_evonorm_s.py:smoke"
    workdir = tmp_path / "search"
    monkeypatch.setattr(sys, "argv", ["search", config, f"--workdir={workdir}", *arguments])
    with pytest.raises(UserError) as caught:
        search.main()
    assert message in str(caught.value)
    assert not workdir.exists()
