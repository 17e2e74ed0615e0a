"""How often a filter is wrong, from the records of `run/false_rejects.py`.

A rejection is wrong if the candidate, trained on all anchors with no filter and no abort rule,
passes the check of quality. The rejection of a duplicate is wrong if, besides, the first layer of
its function does not pass. An abort rule is judged by every run on an anchor by itself: it is wrong
if it would have ended a run whose accuracy passes.
"""

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.search.engine.filters import reject
from evonorm_jax.search.engine.protocol import AbortRule, ProxyProtocol
from evonorm_jax.search.engine.verdicts import Reason
from evonorm_jax.search.run.false_rejects import KNOWN, SURVIVES


@dataclasses.dataclass(frozen=True)
class Rate:
    """How many of the candidates that a filter rejects would have passed.

    Attributes:
      wrong: How many would have passed.
      trained: How many were trained.

    >>> print(Rate(wrong=0, trained=60))
    0 of 60, at most 6.0 %
    """

    wrong: int
    trained: int

    @property
    def upper(self) -> float:
        """Wilson's upper bound: the rate is below it with a confidence of 97.5 %."""
        if not self.trained:
            return 1.0
        z, n, p = 1.96, self.trained, self.wrong / self.trained
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
        return (centre + spread) / (1 + z * z / n)

    def __str__(self) -> str:
        return f"{self.wrong} of {self.trained}, at most {100 * self.upper:.1f} %"


def filter_rates(records: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    """Returns the false-reject rate of each filter; for survivors and known layers, who passes.

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
    """Judges an abort rule.

    Only layers that pass all filters count, and of them the runs whose losses stayed finite.

    Returns:
      Of the runs that the rule would end, how many pass; and of the runs that fail, how many it
      would end.

    Raises:
      ValueError: The rule averages over other steps than the records, which keep means of ten
        losses.
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


def as_markdown(records: Sequence[Mapping[str, Any]], protocol: ProxyProtocol) -> str:
    """Writes tables of the filters, of the abort rules of the protocol, and of the known layers."""
    rates = filter_rates(records)
    lines = [
        f"{len(records)} candidates trained for {protocol.quality_steps} steps on "
        f"{', '.join(protocol.anchor_names)}, with no filter and no abort rule. A rejection is "
        f"wrong if the candidate reaches {protocol.quality_accuracy:g} % on all of them, and that "
        "of a duplicate if the first layer of its function does not. Bounds: Wilson, 97.5 %.",
        "",
        *_filter_lines(rates),
        "",
        *_abort_lines(records, protocol),
    ]
    if SURVIVES in rates:
        rate = rates[SURVIVES]
        lines += ["", f"Of {rate.trained} that no filter rejects, {rate.wrong} reached it."]
    return "\n".join([*lines, "", *_known_lines(records, protocol)]) + "\n"


def _filter_lines(rates: Mapping[str, Rate]) -> list[str]:
    filters = sorted(rates.keys() - {SURVIVES, KNOWN})
    rows = [f"| {reason} | {rates[reason]} |" for reason in filters]
    return ["| would be rejected as | wrong |", "|---|---|", *rows]


def _abort_lines(records: Sequence[Mapping[str, Any]], protocol: ProxyProtocol) -> list[str]:
    lines = ["| would be ended | wrong, of the runs it ends | ends, of those that fail |"]
    lines += ["|---|---|---|"]
    for rule in protocol.abort_rules:
        wrong, caught = abort_rate(records, rule, protocol.quality_accuracy)
        name = f"mean loss of {rule.window} steps above {rule.max_loss} at step {rule.step}"
        lines.append(f"| {name} | {wrong} | {caught.wrong} of {caught.trained} |")
    return lines


def _known_lines(records: Sequence[Mapping[str, Any]], protocol: ProxyProtocol) -> list[str]:
    lines = [f"| known layer | {' | '.join(protocol.anchor_names)} |"]
    lines += ["|---" * (1 + len(protocol.anchors)) + "|"]
    accuracies = {record["graph"]: record["details"]["quality"] for record in records}
    for layer, graph in LIBRARY.items():
        if graph.to_text() in accuracies:
            quality = accuracies[graph.to_text()]
            cells = [f"{quality[a]:.1f} %" if a in quality else "" for a in protocol.anchor_names]
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        elif (rejection := reject(graph)) is not None:
            lines.append(f"| {layer} | {rejection.reason}" + " |" * len(protocol.anchors))
    return lines


def as_csv(records: Sequence[Mapping[str, Any]], protocol: ProxyProtocol) -> str:
    """Writes a line for each candidate, with what the rates are made from."""
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
