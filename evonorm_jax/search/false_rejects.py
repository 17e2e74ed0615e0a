"""How often a filter is wrong: candidates that it would have rejected, trained all the same.

A rejection is wrong if the candidate, trained on all anchors with no filter and no abort rule,
passes the check of quality; that of a duplicate, if besides the first layer of its function does
not pass. Candidates are random graphs and one-mutation children of known layers, drawn until every
filter has met its share, and the known layers themselves; one record of each is appended to a file,
so a run may be interrupted, gone on with, and read at any time.

An abort rule is judged by every anchor's run by itself: it is wrong if it would have ended a run
whose accuracy passes.
"""

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import git_commit
from evonorm_jax.run_files import read_json_lines
from evonorm_jax.search.canonical import canonical_hash
from evonorm_jax.search.engine import Engine
from evonorm_jax.search.filters import FilterConfig, Reason, functional_hash, reject
from evonorm_jax.search.graph import Graph, X
from evonorm_jax.search.library import LIBRARY
from evonorm_jax.search.mutation import mutate_layer
from evonorm_jax.search.protocol import AbortRule, Protocol, Stability
from evonorm_jax.search.space import SearchSpace, pad_graph, random_graph

#: What is written for a candidate that no filter rejects, and for such a known layer.
SURVIVES = "survives"
KNOWN = "known"


@dataclasses.dataclass(frozen=True)
class Rate:
    """Of the candidates that a filter rejects, those that would have passed.

    >>> print(Rate(wrong=0, trained=60))
    0 of 60, at most 6.0 %
    """

    wrong: int
    trained: int

    @property
    def upper(self) -> float:
        """Wilson's bound: the rate is below it with a confidence of 97.5 %."""
        if not self.trained:
            return 1.0
        z, n, p = 1.96, self.trained, self.wrong / self.trained
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
        return (centre + spread) / (1 + z * z / n)

    def __str__(self) -> str:
        return f"{self.wrong} of {self.trained}, at most {100 * self.upper:.1f} %"


def without_filters(protocol: Protocol) -> Protocol:
    """The first steps of a protocol, with nothing to end them early."""
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
    """What is to be trained: `num_each` distinct functions for each filter, as many survivors.

    Random graphs and children alternate. Filters that hardly ever reject get what `num_drawn`
    graphs hold. Candidates that do not see x cannot be trained and need not be. Duplicates compute
    the function of one of the survivors by other operations.

    Yields:
      the reason of the rejection, or `SURVIVES`, and the graph.
    """
    rng = np.random.default_rng(seed)
    parents = [pad_graph(graph, rng, space) for graph in _known(space)]
    seen: set[str] = set()  # functions
    survivors: set[str] = set()
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
        if not is_wanted:  # and its hash, which costs more than the filters, is not
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
      engine: with a protocol from `without_filters`.
      path: of the records, JSON lines; the first has what all of them depend on.
      dataset: what the engine trains on, for the first line.
      seed: of the candidates and their training.
      num_each: candidates for each filter.
      num_drawn: among so many graphs.
      max_candidates: to train at most, of all reasons together.

    Yields:
      each new record.

    Raises:
      UserError: the records in the file depend on something else.
    """
    space = SearchSpace()
    basis = {"protocol": engine.protocol.to_json(), "dataset": dict(dataset), "seed": seed}
    _prepare(path, basis)
    known = {record["graph"] for record in read_records(path)}
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
            evaluation = engine.evaluate(graph, seed)
            record = {"filter": reason, "graph": graph.to_text(), "commit": git_commit()}
            record |= evaluation.to_json()
            file.write(json.dumps(record) + "\n")
            file.flush()
            yield record


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a file."""
    return [line.row for line in read_json_lines(path) if line.row is not None][1:]


def _prepare(path: Path, basis: Mapping[str, Any]) -> None:
    """Begins the file, or takes from it what a kill has left of a line."""
    first = json.dumps(basis) + "\n"
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
        if not whole:
            file.write(first.encode())
    if whole and content.split(b"\n", 1)[0].decode() + "\n" != first:
        raise UserError(
            f"{path} has records of another protocol, data set or seed. Go on with the arguments "
            "that it was begun with, or choose another folder."
        )


def filter_rates(records: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    """The false-reject rate of each filter; for survivors and known layers, how many pass.

    Duplicates count where the first layer of their function was trained.
    """
    firsts = {
        record["details"]["function"]: record["reason"] is None
        for record in records
        if record["filter"] == SURVIVES
    }
    trained: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for record in records:
        reason, passed = record["filter"], record["reason"] is None
        if reason == Reason.DUPLICATE:
            if (function := record["details"]["function"]) not in firsts:
                continue
            passed = passed and not firsts[function]
        trained[reason] += 1
        wrong[reason] += passed
    return {reason: Rate(wrong[reason], trained[reason]) for reason in sorted(trained)}


def abort_rate(
    records: Sequence[Mapping[str, Any]], rule: AbortRule, quality_accuracy: float
) -> tuple[Rate, Rate]:
    """Of the runs that a rule would end, those that pass; and of those that fail, it ends.

    Only layers that pass all filters count, and of them the runs whose losses stayed finite.

    Raises:
      ValueError: the records keep means of ten losses, and the rule averages over other steps.
    """
    if rule.window % 10 or rule.step % 10:
        raise ValueError(f"{rule}: step and window must be multiples of 10")
    ended_and_passed = ended = failed = ended_and_failed = 0
    for record in records:
        if record["filter"] not in (SURVIVES, KNOWN):
            continue
        details = record["details"]
        for anchor, accuracy in details["quality"].items():
            losses = details["losses"][anchor]
            mean = np.mean(losses[(rule.step - rule.window) // 10 : rule.step // 10])
            passes, ends = accuracy >= quality_accuracy, bool(mean > rule.max_loss)
            ended += ends
            ended_and_passed += ends and passes
            failed += not passes
            ended_and_failed += ends and not passes
    return Rate(ended_and_passed, ended), Rate(ended_and_failed, failed)


def as_markdown(records: Sequence[Mapping[str, Any]], protocol: Protocol) -> str:
    """Tables: the filters, the abort rules of the protocol, and the known layers."""
    rates = filter_rates(records)
    lines = [
        f"{len(records)} candidates trained for {protocol.quality_steps} steps on "
        f"{', '.join(protocol.anchor_names)}, with no filter and no abort rule. A rejection is "
        f"wrong if the candidate reaches {protocol.quality_accuracy:g} % on all of them, and that "
        "of a duplicate if the first layer of its function does not. Bounds: Wilson, 97.5 %.",
        "",
        "| would be rejected as | wrong |",
        "|---|---|",
    ]
    lines += [f"| {reason} | {rates[reason]} |" for reason in rates.keys() - {SURVIVES, KNOWN}]
    lines[4:] = sorted(lines[4:])
    lines += ["", "| would be ended | wrong, of the runs it ends | ends, of those that fail |"]
    lines += ["|---|---|---|"]
    for rule in protocol.abort_rules:
        wrong, caught = abort_rate(records, rule, protocol.quality_accuracy)
        name = f"mean loss of {rule.window} steps above {rule.max_loss} at step {rule.step}"
        lines.append(f"| {name} | {wrong} | {caught.wrong} of {caught.trained} |")
    if SURVIVES in rates:
        rate = rates[SURVIVES]
        lines += ["", f"Of {rate.trained} that no filter rejects, {rate.wrong} reached it."]
    lines += ["", f"| known layer | {' | '.join(protocol.anchor_names)} |"]
    lines += ["|---" * (1 + len(protocol.anchors)) + "|"]
    accuracies = {record["graph"]: record["details"]["quality"] for record in records}
    for layer, graph in LIBRARY.items():
        if graph.to_text() in accuracies:
            quality = accuracies[graph.to_text()]
            cells = [f"{quality[a]:.1f} %" if a in quality else "" for a in protocol.anchor_names]
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        elif (rejection := reject(graph)) is not None:
            lines.append(f"| {layer} | {rejection.reason}" + " |" * len(protocol.anchors))
    return "\n".join(lines) + "\n"


def as_csv(records: Sequence[Mapping[str, Any]], protocol: Protocol) -> str:
    """One line for each candidate, with what the rates are made from."""
    names = protocol.anchor_names
    ends = [rule.step for rule in protocol.abort_rules]
    columns = ["filter", "verdict", *(f"{name} accuracy" for name in names)]
    columns += [f"{name} loss {end - 9}-{end}" for name in names for end in ends]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, "graph"])
    for record in records:
        quality, losses = record["details"]["quality"], record["details"]["losses"]
        row = [record["filter"], record["reason"] or "passed"]
        row += [f"{quality[name]:.1f}" if name in quality else "" for name in names]
        for name in names:
            means = losses.get(name, ())
            row += [f"{means[end // 10 - 1]:.4g}" if len(means) * 10 >= end else "" for end in ends]
        writer.writerow([*row, record["graph"]])
    return file.getvalue()
