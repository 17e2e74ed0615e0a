"""Does a cheap protocol rank layers as a long training does?

A search is as good as the order in which its protocol puts candidates. Here the same layers are
scored by several cheap protocols, the proxies, and trained for long in networks that no proxy has;
`report/ranking_tables.py` compares the orders. Nothing is rejected: a training whose loss ceases
to be finite scores what guessing does, so that a proxy is also judged by what it lets diverge.

All train on 128 images a step at the paper's learning rate of 0.1 without warm-up; all but `tiny`
in deep and narrow networks, on CIFAR-10 of 8 x 8 pixels or on the digits, and with a cosine. An
evaluation of a layer that trains costs about the same by each of these. The small images are
shifted by up to one pixel in training, and evaluated at the same size: a ResNet of 26 layers with
BN-ReLU reached 51 % so in 1,500 steps, but 22 % where it was trained on crops of 8 x 8 pixels and
evaluated on whole images of 10 x 10, whose last maps have 3 x 3 pixels instead of 2 x 2.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.provenance import git_commit
from evonorm_jax.search.engine.anchors import ANCHOR_SIZES, Anchor
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.engine.protocol import ProxyProtocol, Stability
from evonorm_jax.search.engine.verdicts import Verdict
from evonorm_jax.search.evolution.mutation import mutate_layer
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph, random_graph
from evonorm_jax.search.run.records import prepare_records, read_records

#: The data sets of the protocols: CIFAR-10, the same at 8 x 8 pixels, and the built-in digits.
DATASETS = ("cifar10", "cifar10_8", "digits")

#: The long training's name among the protocols.
LONG = "long"

_CROP_SIZES = {"cifar10": 24, "cifar10_8": 0, "digits": 0}


@dataclasses.dataclass(frozen=True)
class RankedProtocol:
    """A protocol that rejects nothing, and what it trains on.

    Attributes:
      protocol: The protocol.
      dataset: One of `DATASETS`.
      about: What it is in a few words, for the table.
    """

    protocol: ProxyProtocol
    dataset: str
    about: str


def _ranked(dataset: str, about: str, anchors: Sequence[Anchor], **fields: Any) -> RankedProtocol:
    settings: dict[str, Any] = {
        "crop_size": _CROP_SIZES[dataset],
        "schedule": "cosine",
        # With 32 groups a group of these networks would be one channel.
        "num_groups": 2,
        # The accuracy after these steps rejects nothing here, but is recorded: a search that uses
        # the protocol would reject by it.
        "quality_steps": 80,
        "quality_accuracy": 0.0,
        "nonfinite_rejects": False,
        "stability": Stability(num_steps=0),
        "filters": None,
        "abort_rules": (),
    }
    return RankedProtocol(ProxyProtocol(tuple(anchors), **settings | fields), dataset, about)


(_MOBILE,) = ANCHOR_SIZES["deep"]
_RESNET = Anchor("resnet50_cifar", (("stage_sizes", (3, 3)), ("num_filters", 8)))
_PAIR = (_MOBILE, _RESNET)

#: The proxies by name.
PROXIES: Mapping[str, RankedProtocol] = MappingProxyType(
    {
        "mobile": _ranked("cifar10_8", "the deep MobileNetV2, 160 steps", [_MOBILE], num_steps=160),
        "resnet": _ranked("cifar10_8", "the deep ResNet, 160 steps", [_RESNET], num_steps=160),
        "pair": _ranked("cifar10_8", "both, 80 steps each", _PAIR, num_steps=80),
        "digits": _ranked("digits", "both on the digits, 80 steps each", _PAIR, num_steps=80),
        "tiny": _ranked(
            "cifar10",
            "the `tiny` form: three networks of one block a stage, 100 steps each",
            ANCHOR_SIZES["tiny"],
            num_steps=100,
            quality_steps=100,
            schedule="constant",
            num_groups=32,
        ),
    }
)

#: What the proxies are measured against.
LONG_TRAINING = _ranked(
    "cifar10_8",
    "a MobileNetV2 of 29 and a ResNet of 26 layers, 1,000 steps each",
    ANCHOR_SIZES["deeper"],
    num_steps=1_000,
)

#: Every protocol by name, the long training last.
PROTOCOLS: Mapping[str, RankedProtocol] = MappingProxyType({**PROXIES, LONG: LONG_TRAINING})

_PLAIN = {
    "relu": "n4 = max(x, 0)",
    "silu": "n4 = sigmoid(x); n5 = mul(x, n4)",
    "tanh": "n4 = tanh(x)",
}
# The best of the searches of results/search/evolution_against_random.
_WINNERS = {
    "winner_1": "n4 = tanh(x); n5 = add(n4, v0); n6 = tanh(n5); n7 = max(n6, x)",
    "winner_2": "n4 = neg(v1); n5 = max(n4, x)",
    "winner_3": "n4 = tanh(x); n5 = max(n4, x)",
}


@dataclasses.dataclass(frozen=True)
class RankedLayer:
    """A layer to rank.

    Attributes:
      name: Its name, which no other one has.
      origin: "known"; "plain", an activation alone; "winner" of a search by the `tiny` form;
        "random", a random graph that no filter rejects; or "child", such a mutation of a known one.
      graph: The layer.
    """

    name: str
    origin: str
    graph: Graph


def layers_to_rank(seed: int, num_random: int, num_children: int) -> list[RankedLayer]:
    """Draws layers that compute different functions; all but some known ones pass the filters.

    Origins are mixed evenly, so that a run that was cut short says something of each. More random
    graphs or children leave the others as they are.

    Args:
      seed: The seed of the draw.
      num_random: How many random graphs are drawn.
      num_children: How many one-mutation children of known layers are drawn.

    >>> [layer.name for layer in layers_to_rank(0, 1, 1)][:3]
    ['bn_relu', 'gn_relu', 'relu']
    """
    fixed = {"known": LIBRARY, "plain": _PLAIN, "winner": _WINNERS}
    layers = [
        RankedLayer(name, origin, Graph.from_text(str(graph)))
        for origin, graphs in fixed.items()
        for name, graph in graphs.items()
    ]
    space = SearchSpace()
    parents = [graph for graph in LIBRARY.values() if len(graph.nodes) <= space.num_nodes]
    seen = {functional_hash(layer.graph) for layer in layers}

    def child(rng: np.random.Generator) -> Graph:
        parent = pad_graph(parents[rng.integers(len(parents))], rng, space)
        return mutate_layer(parent, rng, space)

    def draw(origin: str, number: int, propose: Callable[[np.random.Generator], Graph]) -> None:
        rng = np.random.default_rng([seed, len(origin)])  # a stream for each origin
        found = 0
        while found < number:
            graph = propose(rng)
            if reject(graph) is not None or (function := functional_hash(graph)) in seen:
                continue
            seen.add(function)
            found += 1
            layers.append(RankedLayer(f"{origin}_{found}", origin, graph))

    draw("random", num_random, lambda rng: random_graph(rng, space))
    draw("child", num_children, child)
    return _mixed(layers)


def _mixed(layers: Sequence[RankedLayer]) -> list[RankedLayer]:
    """Orders layers by their place among those of their origin, from 0 for its first to 1."""
    origins = [layer.origin for layer in layers]
    places = [
        (origins[:i].count(origin) + 0.5) / origins.count(origin)
        for i, origin in enumerate(origins)
    ]
    return [layers[i] for i in sorted(range(len(layers)), key=places.__getitem__)]


def record_scores(
    evaluate: Mapping[str, Callable[[Graph, int], Verdict]],
    layers: Sequence[RankedLayer],
    path: Path,
    *,
    basis: Mapping[str, Any],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Evaluates by each protocol what the file does not hold yet, and appends a record of each.

    All protocols see a layer before the next one, so that a run that was cut short has compared
    some layers whole. The long training has initial weights and batches of its own: no proxy may
    share its luck.

    Args:
      evaluate: The evaluation of a graph with a seed, by the name of the protocol.
      layers: The layers in their order.
      path: The file of the records, JSON lines.
      basis: What all records depend on.
      seed: The seed of the proxies' evaluations; the next one is that of the long training.

    Yields:
      Each new record: `protocol`, `layer`, `origin`, `graph`, `commit`, `cpu_seconds` of the
      process, and the fields of the verdict.

    Raises:
      UserError: The records in the file depend on something else, or are damaged; the file stays
        as it is.
    """
    prepare_records(path, basis, broken_record_rule)
    records = read_records(path, broken_record_rule)
    known = {(record["protocol"], record["graph"]) for record in records}
    with path.open("a", encoding="utf-8") as file:
        for layer in layers:
            for protocol, evaluation in evaluate.items():
                if (protocol, layer.graph.to_text()) in known:
                    continue
                start = time.process_time()
                verdict = evaluation(layer.graph, seed + (protocol == LONG))
                record = {
                    "protocol": protocol,
                    "layer": layer.name,
                    "origin": layer.origin,
                    "graph": layer.graph.to_text(),
                    "commit": git_commit(),
                    "cpu_seconds": round(time.process_time() - start, 2),
                    **verdict.to_dict(),
                }
                file.write(json.dumps(record) + "\n")
                file.flush()
                yield record


def broken_record_rule(record: Mapping[str, Any]) -> str | None:
    """Returns what a record of a ranking must be where it is not; None where it is one."""
    for field in ("protocol", "layer", "origin"):
        if not isinstance(record.get(field), str):
            return f"an object in which {field!r} is a text"
    if not isinstance(record.get("cpu_seconds"), int | float):
        return "an object in which 'cpu_seconds' is a number"
    return None
