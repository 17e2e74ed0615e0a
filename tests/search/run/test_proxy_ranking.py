"""The layers and protocols of the ranking, and records that are interrupted and gone on with."""

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.run import proxy_ranking
from evonorm_jax.search.run.proxy_ranking import DATASETS, LONG, PROTOCOLS, layers_to_rank
from evonorm_jax.search.run.records import read_records

LAYERS = layers_to_rank(0, 2, 3)


def test_layers_are_distinct_and_pass_the_filters():
    assert layers_to_rank(0, 2, 3) == LAYERS
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    assert len({functional_hash(layer.graph) for layer in LAYERS}) == len(LAYERS)
    origins = [layer.origin for layer in LAYERS]
    counts = [origins.count(name) for name in ("known", "plain", "winner", "random", "child")]
    assert counts == [13, 3, 3, 2, 3]
    assert [la.name for la in LAYERS if reject(la.graph) is not None] == ["random"]


def test_more_layers_leave_the_others_as_they_are():
    more = layers_to_rank(0, 3, 3)
    assert [layer for layer in more if layer.name != "random_3"] != more
    assert {layer.name: layer for layer in LAYERS}.items() <= {la.name: la for la in more}.items()


def test_origins_are_mixed():
    """Of 24 layers the first half has half of each origin."""
    first = [layer.origin for layer in LAYERS[:12]]
    counts = [first.count(name) for name in ("known", "plain", "winner", "random", "child")]
    assert counts == pytest.approx([6.5, 1.5, 1.5, 1, 1.5], abs=0.5)


def test_protocols_reject_nothing():
    for ranked in PROTOCOLS.values():
        protocol = ranked.protocol
        assert ranked.dataset in DATASETS
        assert (protocol.quality_accuracy, protocol.filters, protocol.abort_rules) == (0, None, ())
        assert not protocol.nonfinite_rejects
        assert protocol.stability.num_steps == 0
        assert (protocol.learning_rate, protocol.batch_size) == (0.1, 128)


def test_no_proxy_trains_in_a_network_of_the_long_training():
    networks = {name: set(ranked.protocol.anchors) for name, ranked in PROTOCOLS.items()}
    long = networks.pop(LONG)
    assert all(long.isdisjoint(anchors) for anchors in networks.values())


class Protocol:
    """Gives each layer a score, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, graph, seed):
        self.asked.append((str(graph), seed))
        return Verdict("scored", scores={"net": 10.0 + len(self.asked)}, steps=7)


def record(path, layers, seed=5):
    evaluate = {"pair": Protocol(), LONG: Protocol()}
    basis = {"seed": seed}
    records = proxy_ranking.record_scores(evaluate, layers, path, basis=basis, seed=seed)
    return records, evaluate


def test_all_protocols_see_a_layer_before_the_next_one(tmp_path):
    records, evaluate = record(tmp_path / "records.jsonl", LAYERS[:2])
    names = [(r["layer"], r["protocol"]) for r in records]
    first, second = (layer.name for layer in LAYERS[:2])
    assert names == [(first, "pair"), (first, LONG), (second, "pair"), (second, LONG)]
    assert {seed for _, seed in evaluate["pair"].asked} == {5}
    assert {seed for _, seed in evaluate[LONG].asked} == {6}  # its luck is its own


def test_goes_on_where_it_was_interrupted(tmp_path):
    path = tmp_path / "records.jsonl"
    records, _ = record(path, LAYERS[:3])
    for _ in range(3):  # the second layer's long training is missing
        next(records)
    records.close()
    with path.open("a") as file:
        file.write('{"protocol": "lo')  # killed while writing
    records, evaluate = record(path, LAYERS[:3])
    new = list(records)
    assert [text for text, _ in evaluate["pair"].asked] == [str(LAYERS[2].graph)]
    assert [text for text, _ in evaluate[LONG].asked] == [str(la.graph) for la in LAYERS[1:3]]
    assert len(read_records(path, proxy_ranking.broken_record_rule)) == 6
    assert new[0]["steps"] == 7
    assert new[0]["scores"] == {"net": 11.0}
    with pytest.raises(UserError, match="another protocol, data set or seed"):
        next(record(path, LAYERS[:3], seed=6)[0])
