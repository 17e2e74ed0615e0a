"""Trains candidates that the filters would have rejected, to see how often a filter is wrong.

Candidates are random graphs and one-mutation children of known layers, drawn until every filter has
met its share, and the known layers themselves. They are trained on all anchors with no filter and
no abort rule. A record of each is appended to a file (`records.py`), so a run may be interrupted,
resumed, and read at any time. `report/false_reject_rates.py` makes rates of the records.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evonorm_jax.graphs.canonical import canonical_hash
from evonorm_jax.graphs.graph import Graph, X
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.provenance import git_commit
from evonorm_jax.search.engine.engine import Engine
from evonorm_jax.search.engine.filters import FilterConfig, functional_hash, reject
from evonorm_jax.search.engine.protocol import ProxyProtocol, Stability
from evonorm_jax.search.engine.verdicts import Reason
from evonorm_jax.search.evolution.mutation import mutate_layer
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph, random_graph
from evonorm_jax.search.run.records import prepare_records, read_records

#: What a record says in place of a filter for a candidate that no filter rejects.
SURVIVES = "survives"

#: What a record says in place of a filter for a known layer that no filter rejects.
KNOWN = "known"


def without_filters(protocol: ProxyProtocol) -> ProxyProtocol:
    """Returns a protocol of the first steps alone, with nothing to end them early."""
    return dataclasses.replace(
        protocol,
        num_steps=protocol.quality_steps,
        quality_examples=0,
        filters=None,
        abort_rules=(),
        stability=Stability(num_steps=0),
    )


def candidates(
    seed: int, num_each: int, space: SearchSpace, *, num_drawn: int = 20_000
) -> Iterator[tuple[str, Graph]]:
    """Draws what is to be trained: distinct functions for each filter, and as many survivors.

    Random graphs and children alternate. Candidates that do not depend on x are left out: there is
    nothing to train. Duplicates compute the function of one of the survivors by other operations.

    Args:
      seed: The seed of the draw.
      num_each: How many functions each filter gets.
      space: The space that graphs are drawn from.
      num_drawn: How many graphs are drawn at most; filters that hardly ever reject get fewer.

    Yields:
      The reason of the rejection, or `SURVIVES`, and the graph.
    """
    rng = np.random.default_rng(seed)
    parents = [pad_graph(graph, rng, space) for graph in _known(space)]
    seen: set[str] = set()  # functions
    survivors: set[str] = set()  # functions that no filter rejects
    written: set[str] = set()  # canonical forms
    counts: Counter[str] = Counter()
    for i in range(num_drawn):
        if i % 2:
            graph = random_graph(rng, space)
        else:
            graph = mutate_layer(parents[i // 2 % len(parents)], rng, space)
        if X not in graph.effective:
            continue
        rejection = reject(graph, FilterConfig())
        reason = SURVIVES if rejection is None else str(rejection.reason)
        is_wanted = counts[reason] < num_each
        if reason == SURVIVES:  # it may turn out to be a duplicate
            is_wanted |= counts[Reason.DUPLICATE] < num_each
        if not is_wanted:  # so the hash, which costs more than the filters, is not needed
            continue
        function, form = functional_hash(graph), canonical_hash(graph)
        if reason == SURVIVES and function in survivors and form not in written:
            reason = str(Reason.DUPLICATE)
        elif function in seen:
            continue
        if counts[reason] >= num_each:
            continue
        if reason == SURVIVES:
            survivors.add(function)
        seen.add(function)
        written.add(form)
        counts[reason] += 1
        yield reason, graph


def _known(space: SearchSpace) -> list[Graph]:
    """Returns the known layers that fit the space and pass the filters."""
    fitting = [graph for graph in LIBRARY.values() if len(graph.nodes) <= space.num_nodes]
    return [graph for graph in fitting if reject(graph) is None]


def record_candidates(
    engine: Engine,
    path: Path,
    *,
    dataset: Mapping[str, Any],
    seed: int,
    num_each: int,
    num_drawn: int = 20_000,
    max_candidates: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Trains what is not in the file yet, and appends it line by line.

    The known layers come first. Then the reasons take turns, so that a run that was cut short says
    something of each.

    Args:
      engine: An engine with a protocol from `without_filters`.
      path: The file of the records, JSON lines; the first says what all of them depend on.
      dataset: What the engine trains on, for the first line.
      seed: The seed of the candidates and of their training.
      num_each: How many candidates each filter gets.
      num_drawn: How many graphs are drawn at most.
      max_candidates: How many candidates are trained at most, of all reasons together.

    Yields:
      Each new record.

    Raises:
      UserError: The records in the file depend on something else, or are damaged; the file stays
        as it is.
    """
    space = SearchSpace()
    basis = {"protocol": engine.protocol.to_dict(), "dataset": dict(dataset), "seed": seed}
    prepare_records(path, basis, broken_record_rule)
    known = {record["graph"] for record in read_records(path, broken_record_rule)}
    by_reason: dict[str, list[Graph]] = {}
    for reason, graph in candidates(seed, num_each, space, num_drawn=num_drawn):
        by_reason.setdefault(reason, []).append(graph)
    turns = [(KNOWN, graph) for graph in LIBRARY.values() if reject(graph) is None]
    turns += [
        (reason, graphs[i])
        for i in range(num_each)
        for reason, graphs in by_reason.items()
        if i < len(graphs)
    ]
    with path.open("a", encoding="utf-8") as file:
        for reason, graph in turns[:max_candidates]:
            if graph.to_text() in known:
                continue
            verdict = engine.evaluate(graph, seed)
            record = {"filter": reason, "graph": graph.to_text(), "commit": git_commit()}
            record |= verdict.to_dict()
            file.write(json.dumps(record) + "\n")
            file.flush()
            yield record


def broken_record_rule(record: Mapping[str, Any]) -> str | None:
    """Returns what a record of false rejects must be where it is not; None where it is one."""
    if record.get("filter") not in (SURVIVES, KNOWN, *Reason):
        return f"an object in which 'filter' is one of {', '.join([SURVIVES, KNOWN, *Reason])}"
    details = record["details"]
    if not {"function", "quality", "losses"} <= details.keys():
        return "an object in which 'details' is an object with 'function', 'quality' and 'losses'"
    losses = details["losses"]
    if details["quality"].keys() - losses or any(None in means for means in losses.values()):
        return "an object whose 'details' have numbers as 'losses' of each network in 'quality'"
    return None
